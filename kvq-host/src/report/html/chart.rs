//! A chart of points and lines over two axes, as SVG.

use maud::{Markup, html};

use super::axis::{Axis, Scale};

const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 308.0;
/// The plot within them: left, right, top and bottom edge.
const PLOT: [f64; 4] = [58.0, 420.0, 24.0, 264.0];

/// What a chart is made of.
pub(crate) struct Chart {
    /// Heading.
    pub title: &'static str,
    /// Words under it.
    pub caption: String,
    /// Label and scale of the horizontal axis.
    pub x: (&'static str, Scale),
    /// Label and scale of the vertical axis.
    pub y: (String, Scale),
    /// Writes figures of the horizontal axis.
    pub x_text: fn(f64) -> String,
    /// Writes figures of the vertical axis.
    pub y_text: fn(f64) -> String,
    /// Lines and points.
    pub series: Vec<Series>,
    /// A height that is marked across the chart, and its name.
    pub level: Option<(f64, String)>,
    /// Points that are only there to compare with: name, x, y.
    pub marks: Vec<(&'static str, f64, f64)>,
}

/// Figures of one cache.
pub(crate) struct Series {
    /// Its name.
    pub name: String,
    /// Its colour, 0 to 7: 0 and 1 are greys.
    pub colour: usize,
    /// Points, ascending in x.
    pub points: Vec<(f64, f64)>,
    /// Whether the points are named in the chart instead of below it.
    pub is_labelled: bool,
}

/// A text in the chart, and the place it takes.
struct Label {
    x: f64,
    y: f64,
    text: String,
    is_strong: bool,
}

impl Chart {
    /// The chart as a figure with its legend; nothing where there is no point.
    pub fn render(&self) -> Option<Markup> {
        let points = || self.series.iter().flat_map(|series| &series.points);
        points().next()?;
        let marks = || self.marks.iter().map(|(_, x, y)| (*x, *y));
        let level = self.level.iter().map(|(y, _)| *y);
        let x = Axis::over(self.x.1, points().copied().chain(marks()).map(|(x, _)| x));
        let y = Axis::over(self.y.1, points().copied().chain(marks()).map(|(_, y)| y).chain(level));
        let at = |(vx, vy): (f64, f64)| (across(&x, vx), up(&y, vy));
        let labels = self.labels(&at);
        Some(html! {
            figure {
                h2 { (self.title) }
                svg viewBox={"0 0 " (WIDTH) " " (HEIGHT)} role="img" aria-label=(self.title) {
                    (self.axes(&x, &y))
                    @if let Some((value, name)) = &self.level {
                        line.level x1=(PLOT[0]) x2=(PLOT[1]) y1=(px(up(&y, *value))) y2=(px(up(&y, *value))) {}
                        text x=(PLOT[1]) y=(px(up(&y, *value) - 4.0)) text-anchor="end" { (name) }
                    }
                    @for mark in marks() { @let (cx, cy) = at(mark);
                        circle.mark cx=(px(cx)) cy=(px(cy)) r="3.5" {}
                    }
                    @for series in &self.series { g class={"k" (series.colour)} {
                        @if series.points.len() > 1 { path.path d=(path(&series.points, &at)) {} }
                        @if series.points.len() < 12 { @for point in &series.points { @let (cx, cy) = at(*point);
                            circle.dot cx=(px(cx)) cy=(px(cy)) r="4" {
                                title { (series.name) ": " ((self.x_text)(point.0)) ", " ((self.y_text)(point.1)) }
                            }
                        } }
                    } }
                    @for label in &labels {
                        text.strong[label.is_strong] x=(px(label.x)) y=(px(label.y)) { (label.text) }
                    }
                }
                ul.key { @for series in self.series.iter().filter(|series| !series.is_labelled) {
                    li class={"k" (series.colour)} { i {} (series.name) }
                } }
                @if !self.caption.is_empty() { figcaption { (self.caption) } }
            }
        })
    }

    fn axes(&self, x: &Axis, y: &Axis) -> Markup {
        let [left, right, top, bottom] = PLOT;
        html! {
            @for tick in &y.ticks { @let at = px(up(y, *tick));
                line.grid x1=(left) x2=(right) y1=(at) y2=(at) {}
                text x=(left - 6.0) y=(px(up(y, *tick) + 4.0)) text-anchor="end" { ((self.y_text)(*tick)) }
            }
            line.axis x1=(left) x2=(right) y1=(bottom) y2=(bottom) {}
            @for tick in &x.ticks {
                text x=(px(across(x, *tick))) y=(bottom + 16.0) text-anchor="middle" { ((self.x_text)(*tick)) }
            }
            text x=((left + right) / 2.0) y=(HEIGHT - 10.0) text-anchor="middle" { (self.x.0) }
            text x="2" y=(top - 11.0) { (self.y.0) }
        }
    }

    /// Names beside points, each where it covers no point and no other name, if there is such a place.
    fn labels(&self, at: &impl Fn((f64, f64)) -> (f64, f64)) -> Vec<Label> {
        let series = self.series.iter().filter(|series| series.is_labelled);
        let own = series.flat_map(|s| s.points.iter().map(|point| (s.name.clone(), *point, true)));
        let marks = self.marks.iter().map(|(name, x, y)| ((*name).to_owned(), (*x, *y), false));
        let all: Vec<_> = own.chain(marks).collect();
        let mut taken: Vec<[f64; 4]> = all
            .iter()
            .map(|(_, point, _)| at(*point))
            .map(|(x, y)| [x - 4.0, x + 4.0, y - 4.0, y + 4.0])
            .collect();
        let mut labels = Vec::new();
        for (text, point, is_strong) in all {
            let (x, y) = at(point);
            // System fonts at 12 pixels are about 6.6 wide.
            let width = 6.6 * text.chars().count() as f64;
            let sides = [7.0, -7.0 - width, -width / 2.0];
            let heights = [4.0, -8.0, 17.0, -20.0, 29.0, -32.0, 41.0];
            let places = heights.iter().flat_map(|dy| sides.iter().map(move |dx| (dx, dy)));
            let boxes: Vec<[f64; 4]> =
                places.map(|(dx, dy)| [x + dx, x + dx + width, y + dy - 10.0, y + dy + 2.0]).collect();
            let inside = |b: &[f64; 4]| b[0] >= PLOT[0] && b[1] <= WIDTH && b[2] >= 0.0 && b[3] <= PLOT[3];
            let overlap = |b: &[f64; 4]| -> f64 {
                let common = |t: &[f64; 4]| {
                    (b[1].min(t[1]) - b[0].max(t[0])).max(0.0) * (b[3].min(t[3]) - b[2].max(t[2])).max(0.0)
                };
                taken.iter().map(common).sum()
            };
            let best = boxes.iter().filter(|b| inside(b)).min_by(|a, b| overlap(a).total_cmp(&overlap(b)));
            let best = best.unwrap_or(&boxes[0]);
            taken.push(*best);
            labels.push(Label { x: best[0], y: best[3] - 2.0, text, is_strong });
        }
        labels
    }
}

fn across(axis: &Axis, value: f64) -> f64 {
    PLOT[0] + axis.place(value) * (PLOT[1] - PLOT[0])
}

fn up(axis: &Axis, value: f64) -> f64 {
    PLOT[3] - axis.place(value) * (PLOT[3] - PLOT[2])
}

fn path(points: &[(f64, f64)], at: &impl Fn((f64, f64)) -> (f64, f64)) -> String {
    let steps = points.iter().enumerate().map(|(i, point)| {
        let (x, y) = at(*point);
        format!("{}{} {}", if i == 0 { "M" } else { "L" }, px(x), px(y))
    });
    steps.collect()
}

/// A place with one digit behind the point.
fn px(at: f64) -> String {
    format!("{at:.1}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(series: Vec<Series>) -> Chart {
        Chart {
            title: "t",
            caption: String::new(),
            x: ("x", Scale::Linear),
            y: ("y".into(), Scale::Log),
            x_text: |x| format!("{x}"),
            y_text: |y| format!("{y}"),
            series,
            level: None,
            marks: Vec::new(),
        }
    }

    #[test]
    fn names_do_not_cover_each_other() {
        let one = |name: &str, x| Series {
            name: name.into(),
            colour: 2,
            points: vec![(x, 0.01)],
            is_labelled: true,
        };
        let chart = chart(vec![one("first-name", 4.0), one("second-name", 4.1), one("third", 4.2)]);
        let labels = chart.labels(&|(x, _)| (x * 60.0, 100.0));
        let boxes: Vec<_> =
            labels.iter().map(|l| (l.x, l.x + 6.6 * l.text.len() as f64, l.y - 10.0, l.y + 2.0)).collect();
        for (i, a) in boxes.iter().enumerate() {
            for b in &boxes[i + 1..] {
                assert!(a.0 >= b.1 || a.1 <= b.0 || a.2 >= b.3 || a.3 <= b.2, "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn a_chart_without_points_is_none() {
        assert!(chart(Vec::new()).render().is_none());
        let name = "<4x>".to_owned();
        let some = Series { name, colour: 2, points: vec![(1.0, 0.1), (2.0, 0.2)], is_labelled: false };
        let svg = chart(vec![some]).render().unwrap().into_string();
        assert!(svg.contains("<path") && svg.contains("&lt;4x&gt;") && !svg.contains("NaN"), "{svg}");
    }
}
