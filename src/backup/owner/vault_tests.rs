use data_encoding::HEXLOWER;
use proptest::prelude::*;

use super::*;
use crate::backup::owner::{OwnerKeys, Phrase};

/// Fast enough for tests.
const CHEAP: Cost = Cost {
    memory_kib: 64,
    passes: 2,
    lanes: 1,
};

/// The words' entropy is 0, 1, .., 15, the machine's seed 32 bytes 0x11, its name "desk". Made with Python's hmac, hashlib and
/// cryptography, and protobuf by hand.
const GOLDEN_PLAIN: &str = "4c4e4f574e4b455902d42e075bb80b9e6bfb72a191e176a4941e499583d7f6845a70ad645d569949920aae010a20f2d0685ace7f6f8fd2c616487b41df39d66e8b26b77ef81570b8e958386d71da222011111111111111111111111111111111111111111111111111111111111111112a404391d47a99033dca6f6f6cfe5346cfe8538891012a393d54031aeec9cd8c3ccd960bbc18c751125e696f95184127eb99db7c453bb7362a7db289c6737e7a390932046465736b3a2011f077d9e052c797f0a18bfe6e3d8ea4d44926119f8510426fab516fe30a064e";
/// The same behind "open sesame": salt 16 bytes 0x22, nonce 12 bytes 0x33, 64 KiB, two passes, one lane.
const GOLDEN_SEALED: &str = "4c4e4f574e4b45590218d24c7367230f972ae7a4ed267f3fc8fc2e4c831fad5c431456966288e8a72112b3020a640a20f2d0685ace7f6f8fd2c616487b41df39d66e8b26b77ef81570b8e958386d71da1220d04ab232742bb4ab3a1368bd4615e4e6d0224ab71a016baf8520a332c97787371a046465736b22180a102222222222222222222222222222222210401802200112ca0133333333333333333333333349f70faa64c066fedbe49fa844df019685a02b7fe5025fc9340540c90f98574bf846b79ae5609ed80d98975a735515ee45ce7191646c3605cf71fc48c833ede5acd666c28e678332f1c483c76ca425d7a841978566f185d331e7406217de6f7e98192a02e12a9fff2dec703fe07c1222d6f68f6c72f0e6d64453aa4dd51fc6522ad4f8a72257551e48adee75cf8de92435a489448b72b635cf3750680c97776e954e9be1f67ed4329b3242f5f4a8875bc9b4bbf2ff5fdd0092c1b90cbb5a";

fn hex(text: &str) -> Vec<u8> {
    HEXLOWER.decode(text.as_bytes()).expect("hex")
}

fn golden() -> Membership {
    let entropy = std::array::from_fn(|at| u8::try_from(at).expect("16 bytes"));
    let keys = OwnerKeys::derive(&Phrase::from_entropy(entropy));
    Membership::with_machine(
        &keys,
        MachineKeys::from_seed(&[0x11; 32]),
        "desk".to_owned(),
    )
    .expect("a name")
}

fn is_same(a: &Membership, b: &Membership) -> bool {
    Wiped::new(a).encode() == Wiped::new(b).encode()
}

fn read(bytes: &[u8]) -> Result<State, Error> {
    decode(Path::new("owner.key"), bytes)
}

fn open_state(bytes: &[u8], passphrase: &[u8]) -> Membership {
    match read(bytes).expect("a file") {
        State::Open(membership) => membership,
        State::Locked(locked) => locked.unlock(passphrase).expect("the passphrase"),
    }
}

/// Puts another body into a file, with the right checksum.
fn reframe(change: impl FnOnce(&mut proto::OwnerFile)) -> Vec<u8> {
    let mut file =
        proto::OwnerFile::decode(&hex(GOLDEN_SEALED)[9 + CHECKSUM_BYTES..]).expect("a message");
    change(&mut file);
    frame(&file.encode_to_vec()).to_vec()
}

fn with_header(change: impl FnOnce(&mut proto::SealedHeader)) -> Vec<u8> {
    reframe(|file| {
        let Some(proto::owner_file::Form::Sealed(sealed)) = &mut file.form else {
            panic!("the golden file is sealed");
        };
        let mut header = proto::SealedHeader::decode(sealed.header.clone()).expect("a header");
        change(&mut header);
        sealed.header = header.encode_to_vec().into();
    })
}

#[test]
fn golden_files() {
    let bytes = encode(Path::new("x"), &golden(), None, CHEAP).expect("no passphrase");
    assert_eq!(HEXLOWER.encode(&bytes), GOLDEN_PLAIN);
    for file in [GOLDEN_PLAIN, GOLDEN_SEALED] {
        let bytes = hex(file);
        assert!(is_same(&open_state(&bytes, b"open sesame"), &golden()));
    }
}

#[test]
fn a_membership_is_stored_once_and_for_its_user_only() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("new/data");
    assert!(!Vault::exists(&dir).expect("readable"));
    assert!(Vault::open(&dir).expect("readable").is_none());
    assert!(matches!(Vault::load(&dir, None), Err(Error::Missing(_))));
    let member = golden();
    Vault::create(&dir, &member, None).expect("stored");
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(&dir), mode(&dir.join(FILE_NAME))), (0o700, 0o600));
    let vault = Vault::open(&dir).expect("readable").expect("there");
    assert_eq!((vault.is_locked(), vault.exposed_mode), (false, None));
    assert_eq!(vault.owner(), member.owner());
    assert_eq!(
        (vault.machine(), vault.name()),
        (member.machine().id(), "desk")
    );
    assert!(is_same(&Vault::load(&dir, None).expect("open"), &member));
    let before = fs::read(dir.join(FILE_NAME)).expect("there");
    let other = Membership::create(&OwnerKeys::derive(&Phrase::random()), "x").expect("a name");
    assert!(matches!(
        Vault::create(&dir, &other, None),
        Err(Error::Exists(_))
    ));
    assert_eq!(fs::read(dir.join(FILE_NAME)).expect("there"), before);
    assert_eq!(
        fs::read_dir(&dir).expect("a directory").count(),
        1,
        "nothing is left beside it"
    );

    fs::set_permissions(dir.join(FILE_NAME), fs::Permissions::from_mode(0o644)).expect("ours");
    let vault = Vault::open(&dir).expect("still readable").expect("there");
    assert_eq!(vault.exposed_mode, Some(0o644));
}

#[test]
fn a_passphrase_is_set_changed_and_removed() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    let member = golden();
    Vault::create_at_cost(dir, &member, Some(b"one"), CHEAP).expect("stored");
    let vault = Vault::open(dir).expect("readable").expect("there");
    assert!(vault.is_locked());
    assert_eq!((vault.owner(), vault.name()), (member.owner(), "desk"));
    assert_eq!(vault.machine(), member.machine().id());
    assert!(matches!(Vault::load(dir, None), Err(Error::Locked(_))));
    for wrong in [b"two".as_slice(), b"", &[b'x'; MAX_PASSPHRASE_BYTES + 1]] {
        assert!(matches!(
            Vault::load(dir, Some(wrong)),
            Err(Error::WrongPassphrase(_))
        ));
        let changed = Vault::change_at_cost(dir, Some(wrong), None, CHEAP);
        assert!(matches!(changed, Err(Error::WrongPassphrase(_))));
    }
    assert!(is_same(
        &Vault::load(dir, Some(b"one")).expect("opens"),
        &member
    ));
    let longest = [b'x'; MAX_PASSPHRASE_BYTES];
    Vault::change_at_cost(dir, Some(b"one"), Some(&longest), CHEAP).expect("changed");
    assert!(matches!(
        Vault::load(dir, Some(b"one")),
        Err(Error::WrongPassphrase(_))
    ));
    assert!(is_same(
        &Vault::load(dir, Some(&longest)).expect("opens"),
        &member
    ));
    for bad in [b"".as_slice(), &[b'x'; MAX_PASSPHRASE_BYTES + 1]] {
        let changed = Vault::change_at_cost(dir, Some(&longest), Some(bad), CHEAP);
        assert!(matches!(changed, Err(Error::Passphrase { .. })));
    }
    Vault::change_at_cost(dir, Some(&longest), None, CHEAP).expect("removed");
    assert!(is_same(&Vault::load(dir, None).expect("open"), &member));
    Vault::change_at_cost(dir, None, Some(b"new"), CHEAP).expect("set");
    assert!(is_same(
        &Vault::load(dir, Some(b"new")).expect("opens"),
        &member
    ));
    let mode = fs::metadata(dir.join(FILE_NAME))
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn no_secret_is_readable_behind_a_passphrase() {
    let member = golden();
    let bytes = encode(Path::new("x"), &member, Some(b"p"), CHEAP).expect("sealed");
    for secret in [
        member.backup_root().as_bytes(),
        member.generation().key().as_bytes(),
        member.machine().seed(),
    ] {
        assert!(
            !bytes
                .windows(8)
                .any(|part| secret.windows(8).any(|s| s == part))
        );
    }
    let vault = read(&bytes).expect("a file");
    assert!(!format!("{vault:?}").contains(&format!("{:?}", member.backup_root().as_bytes())));
}

#[test]
fn every_kind_of_damage_is_told_apart() {
    for file in [GOLDEN_PLAIN, GOLDEN_SEALED] {
        let good = hex(file);
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            match read(&bytes) {
                Err(Error::Version {
                    found: 0x12,
                    known: VERSION,
                    ..
                }) => assert_eq!(at, MAGIC.len()),
                Err(Error::Damaged { .. }) => {}
                other => panic!("byte {at}: {other:?}"),
            }
            assert!(
                matches!(read(&good[..at]), Err(Error::Damaged { .. })),
                "cut at {at}"
            );
        }
        let mut longer = good.clone();
        longer.push(0);
        assert!(matches!(read(&longer), Err(Error::Damaged { .. })));
    }
    let fill = vec![0; MAX_FILE_BYTES + 1 - 9 - CHECKSUM_BYTES];
    assert!(matches!(
        read(&frame(&fill)),
        Err(Error::Damaged {
            what: "it is too long",
            ..
        })
    ));
}

#[test]
fn hostile_parameters_are_refused_before_they_cost_anything() {
    let refused = |change: &dyn Fn(&mut proto::Argon2id)| {
        let bytes = with_header(|header| change(header.argon2id.as_mut().expect("there")));
        matches!(read(&bytes), Err(Error::Damaged { .. }))
    };
    assert!(!refused(&|_| {}));
    assert!(!refused(&|p| p.memory_kib = Cost::MAX.memory_kib));
    assert!(refused(&|p| p.memory_kib = Cost::MAX.memory_kib + 1));
    assert!(refused(&|p| p.passes = Cost::MAX.passes + 1));
    assert!(refused(&|p| p.lanes = Cost::MAX.lanes + 1));
    assert!(refused(&|p| p.salt = Bytes::from_static(b"short")));
    // Too little for Argon2 is seen when it is used.
    let bytes = with_header(|header| header.argon2id.as_mut().expect("there").passes = 0);
    let Ok(State::Locked(locked)) = read(&bytes) else {
        panic!("it is readable");
    };
    assert!(matches!(
        locked.unlock(b"open sesame"),
        Err(Error::Damaged { .. })
    ));
}

#[test]
fn what_is_readable_is_authenticated() {
    for bytes in [
        with_header(|header| header.name = "other".to_owned()),
        with_header(|header| header.owner = Bytes::from_static(&[7; 32])),
        with_header(|header| header.machine = Bytes::from_static(&[7; 32])),
    ] {
        let Ok(State::Locked(locked)) = read(&bytes) else {
            panic!("it is readable");
        };
        assert!(matches!(
            locked.unlock(b"open sesame"),
            Err(Error::WrongPassphrase(_))
        ));
    }
    for bytes in [
        with_header(|header| header.name = "n".repeat(256)),
        with_header(|header| header.owner = Bytes::from_static(&[7; 31])),
        with_header(|header| header.argon2id = None),
        reframe(|file| file.form = None),
    ] {
        assert!(matches!(read(&bytes), Err(Error::Damaged { .. })));
    }
}

#[test]
fn a_certificate_of_another_owner_is_damage() {
    let mut member = Wiped::new(&golden());
    member.0.owner = Bytes::copy_from_slice(OwnerKeys::derive(&Phrase::random()).id().as_bytes());
    assert!(matches!(
        read(&frame(&member.in_file())),
        Err(Error::Damaged { .. })
    ));
}

proptest! {
    #[test]
    fn any_bytes_give_an_answer(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(read(&body).is_err());
        let _ = read(&frame(&body));
    }
}
