//! Draws what the simulation found: a small writer of SVG, and the numbers as CSV.

use std::fmt::Write;

use super::{CROWD_MINUTES, MINUTES, Minute};

const NAMES: [&str; 3] = [
    "no copies",
    "readers that stay cache",
    "caching and popular copies",
];
const COLOURS: [&str; 3] = ["#b3402a", "#2a62b3", "#2f7d3b"];
const WIDTH: f64 = 860.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 840.0;
/// Top and height of the two diagrams.
const PANELS: [(f64, f64); 2] = [(80.0, 250.0), (420.0, 170.0)];
const HEIGHT: f64 = 650.0;

/// One diagram: what it shows of each minute, on a scale that starts at zero and has these lines.
struct Panel<'a> {
    title: &'a str,
    top: f64,
    height: f64,
    most: f64,
    step: f64,
    value: &'a dyn Fn(&Minute) -> Option<f64>,
}

fn x(minute: f64) -> f64 {
    LEFT + (RIGHT - LEFT) * minute / MINUTES as f64
}

fn text(svg: &mut String, at: (f64, f64), anchor: &str, size: u32, text: &str) {
    let (x, y) = at;
    writeln!(
        svg,
        r##"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-size="{size}" fill="#222">{text}</text>"##
    )
    .expect("a string takes everything");
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    writeln!(
        svg,
        r##"<line x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}" stroke="{colour}"/>"##,
        from.0, from.1, to.0, to.1
    )
    .expect("a string takes everything");
}

fn panel(svg: &mut String, runs: &[Vec<Minute>; 3], panel: &Panel<'_>) {
    let bottom = panel.top + panel.height;
    let y = |value: f64| bottom - panel.height * (value / panel.most).min(1.0);
    let (from, to) = (x(CROWD_MINUTES.start as f64), x(CROWD_MINUTES.end as f64));
    writeln!(
        svg,
        r##"<rect x="{from:.1}" y="{:.1}" width="{:.1}" height="{:.1}" fill="#f3ead2"/>"##,
        panel.top,
        to - from,
        panel.height
    )
    .expect("a string takes everything");
    text(svg, (LEFT, panel.top - 10.0), "start", 14, panel.title);
    let mut at = 0.0;
    while at <= panel.most {
        line(svg, (LEFT, y(at)), (RIGHT, y(at)), "#d5d5d5");
        text(svg, (LEFT - 8.0, y(at) + 4.0), "end", 12, &format!("{at}"));
        at += panel.step;
    }
    for minute in (0..=MINUTES).step_by(10) {
        let at = x(minute as f64);
        line(svg, (at, bottom), (at, bottom + 5.0), "#666");
        text(svg, (at, bottom + 19.0), "middle", 12, &minute.to_string());
    }
    line(svg, (LEFT, bottom), (RIGHT, bottom), "#666");
    for (run, colour) in runs.iter().zip(COLOURS) {
        let values = run.iter().zip(0u32..);
        let points: Vec<String> = values
            .filter_map(|(minute, at)| Some((f64::from(at) + 0.5, (panel.value)(minute)?)))
            .map(|(at, value)| format!("{:.1},{:.1}", x(at), y(value)))
            .collect();
        writeln!(
            svg,
            r##"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="1.8"/>"##,
            points.join(" ")
        )
        .expect("a string takes everything");
    }
}

pub(super) fn svg(runs: &[Vec<Minute>; 3]) -> String {
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">
<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>
"##
    );
    let title = "Everybody wants one block: 200 nodes, 2,000 blocks, its demand a hundredfold for a while (shaded)";
    text(&mut svg, (LEFT, 24.0), "start", 15, title);
    let mut at = LEFT;
    for (name, colour) in NAMES.iter().zip(COLOURS) {
        line(&mut svg, (at, 43.0), (at + 24.0, 43.0), colour);
        text(&mut svg, (at + 30.0, 47.0), "start", 13, name);
        at += 230.0;
    }
    let most = runs.iter().flatten().map(|minute| minute.origin).max();
    let most = (most.unwrap_or_default() as f64 / 20.0).ceil().max(1.0) * 20.0;
    let origin = Panel {
        title: "times a minute that the block's origin gives it away",
        top: PANELS[0].0,
        height: PANELS[0].1,
        most,
        step: 20.0,
        value: &|minute| Some(minute.origin as f64),
    };
    panel(&mut svg, runs, &origin);
    let hops = Panel {
        title: "hops a request, minutes with requests only",
        top: PANELS[1].0,
        height: PANELS[1].1,
        most: 6.0,
        step: 1.0,
        value: &|minute| match minute.requests {
            0 => None,
            requests => Some(minute.hops as f64 / requests as f64),
        },
    };
    panel(&mut svg, runs, &hops);
    let at = ((LEFT + RIGHT) / 2.0, HEIGHT - 12.0);
    text(&mut svg, at, "middle", 13, "minutes");
    svg.push_str("</svg>\n");
    svg
}

pub(super) fn csv(runs: &[Vec<Minute>; 3]) -> String {
    let mut csv = String::from("minute,setting,origin,requests,hops,holders,pushed,bytes\n");
    for (run, name) in runs.iter().zip(NAMES) {
        for (minute, at) in run.iter().zip(0..) {
            let Minute {
                origin,
                requests,
                hops,
                copies,
                pushed,
                bytes,
            } = minute;
            writeln!(
                csv,
                "{at},{name},{origin},{requests},{hops},{copies},{pushed},{bytes}"
            )
            .expect("a string takes everything");
        }
    }
    csv
}
