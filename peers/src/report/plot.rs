//! A plot of each table: for each engine a bar for each figure.

use std::path::Path;

use plotters::prelude::*;

use super::Data;
use super::sections::{Column, Section};
use super::table::{number, value};
use crate::Res;
use crate::engine::Name;

const COLORS: [RGBColor; 4] =
    [RGBColor(31, 119, 180), RGBColor(255, 127, 14), RGBColor(44, 160, 44), RGBColor(214, 39, 40)];
const WIDTH: u32 = 900;
const LEFT: i32 = 120;
const ROOM: f64 = 660.0;
const BAR: i32 = 11;
const GAP: i32 = 10;
const TOP: i32 = 58;

pub fn write(data: &Data, section: &Section, dir: &Path) -> Res<()> {
    let shown = |column: &Column, engine| {
        column.figures.first().and_then(|figure| value(data, column, *figure, engine))
    };
    let engines: Vec<_> = Name::ALL
        .into_iter()
        .filter(|engine| section.bars.iter().any(|column| shown(column, *engine).is_some()))
        .collect();
    let values = || {
        let pairs = engines.iter().flat_map(|e| section.bars.iter().map(move |c| (c, *e)));
        pairs.filter_map(|(column, engine)| shown(column, engine)).filter(|v| *v > 0.0)
    };
    let least = values().fold(f64::INFINITY, f64::min);
    let most = values().fold(0.0, f64::max);
    let length = |value: f64| {
        let share = match section.unit.contains("logarithm") {
            true if most > least => 0.02 + 0.98 * (value / least).ln() / (most / least).ln(),
            _ => value / most,
        };
        (share * ROOM) as i32
    };
    let group = section.bars.len() as i32 * BAR + GAP;
    let height = TOP + group * engines.len() as i32 + GAP;
    let path = dir.join(format!("{}.svg", section.name));
    let area = SVGBackend::new(&path, (WIDTH, height as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    let text = |text: &str, at, size: i32| {
        let style = ("sans-serif", size).into_font().color(&BLACK);
        area.draw(&Text::new(text.to_owned(), at, style))
    };
    text(section.title, (10, 6), 18)?;
    text(section.unit, (10, 28), 12)?;
    for (at, column) in section.bars.iter().enumerate() {
        let x = 330 + at as i32 * 145;
        let color = COLORS[at % COLORS.len()].filled();
        area.draw(&Rectangle::new([(x, 32), (x + 9, 41)], color))?;
        text(&column.title, (x + 13, 30), 11)?;
    }
    for (row, engine) in engines.iter().enumerate() {
        let y = TOP + row as i32 * group;
        text(engine.text(), (10, y + (group - GAP) / 2 - 7), 13)?;
        for (at, column) in section.bars.iter().enumerate() {
            let Some(value) = shown(column, *engine).filter(|value| value.is_finite()) else {
                continue;
            };
            let y = y + at as i32 * BAR;
            let end = LEFT + length(value).max(1);
            let color = COLORS[at % COLORS.len()].filled();
            area.draw(&Rectangle::new([(LEFT, y), (end, y + BAR - 2)], color))?;
            text(&number(value), (end + 4, y - 1), 10)?;
        }
    }
    Ok(area.present()?)
}
