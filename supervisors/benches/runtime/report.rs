//! From samples to medians, ratios within a round, and tables.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::{
    load::Case,
    peers::{OURS, OURS_ON_ONE_THREAD},
};

/// What is held: the time of one over the other's, by case.
const BOUNDS: [(Case, &str, &str, f64); 6] = [
    (Case::ask(1, false), OURS, "actix", 1.1),
    (Case::ask(1, true), OURS, "actix", 1.1),
    (Case::ask(8, false), OURS, "actix", 1.5),
    (Case::ask(8, true), OURS, "actix", 1.5),
    (Case::Restart, OURS, "kameo", 1.5),
    (Case::Restart, OURS_ON_ONE_THREAD, "kameo", 1.5),
];

/// The order in a round: who came first comes last in the next one.
pub fn alternate<T>(lanes: &[T], turn: u32) -> Box<dyn Iterator<Item = &T> + '_> {
    if turn.is_multiple_of(2) {
        Box::new(lanes.iter())
    } else {
        Box::new(lanes.iter().rev())
    }
}

/// A median with the quartiles as its spread.
struct Figure {
    lower: f64,
    median: f64,
    upper: f64,
}

impl Figure {
    /// `None` where there is no sample.
    fn of(mut samples: Vec<f64>) -> Option<Self> {
        samples.sort_unstable_by(f64::total_cmp);
        let last = samples.len().checked_sub(1)?;
        let quantile = |share: f64| {
            let place = last as f64 * share;
            let (below, above) = (place.floor() as usize, place.ceil() as usize);
            samples[below] + (samples[above] - samples[below]) * place.fract()
        };
        Some(Self {
            lower: quantile(0.25),
            median: quantile(0.5),
            upper: quantile(0.75),
        })
    }
}

/// The precision asked for holds for all three.
impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(2);
        let Self {
            lower,
            median,
            upper,
        } = self;
        write!(
            f,
            "{median:.digits$} ({lower:.digits$} to {upper:.digits$})"
        )
    }
}

/// The samples of one case: a row for each round, a column for each lane.
#[derive(Serialize)]
struct Table {
    #[serde(serialize_with = "as_text")]
    case: Case,
    /// Nanoseconds for each message or restart.
    rounds_ns: Vec<Vec<Option<f64>>>,
}

fn as_text<S: Serializer>(case: &Case, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(case)
}

/// All samples.
#[derive(Serialize)]
pub struct Report {
    lanes: Vec<&'static str>,
    tables: Vec<Table>,
}

impl Report {
    pub fn new(lanes: impl Iterator<Item = &'static str>, cases: &[Case]) -> Self {
        let tables = cases.iter().map(|&case| Table {
            case,
            rounds_ns: Vec::new(),
        });
        Self {
            lanes: lanes.collect(),
            tables: tables.collect(),
        }
    }

    /// Begins a round of `case`.
    pub fn begin(&mut self, case: Case) {
        let empty = vec![None; self.lanes.len()];
        if let Some(table) = self.tables.iter_mut().find(|table| table.case == case) {
            table.rounds_ns.push(empty);
        }
    }

    /// A sample of the round that was begun last.
    pub fn add(&mut self, case: Case, lane: &str, nanoseconds: f64) {
        let Some(column) = self.column(lane) else {
            return;
        };
        let table = self.tables.iter_mut().find(|table| table.case == case);
        if let Some(round) = table.and_then(|table| table.rounds_ns.last_mut()) {
            round[column] = Some(nanoseconds);
        }
    }

    /// `None` for a lane that was not measured.
    fn column(&self, lane: &str) -> Option<usize> {
        self.lanes.iter().position(|name| *name == lane)
    }

    fn rounds(&self) -> usize {
        self.tables.first().map_or(0, |table| table.rounds_ns.len())
    }

    fn microseconds(&self, table: &Table, lane: &str) -> Option<Figure> {
        let column = self.column(lane)?;
        let samples = table.rounds_ns.iter().filter_map(|round| round[column]);
        Figure::of(samples.map(|ns| ns / 1000.0).collect())
    }

    /// The time of `ours` over the lane's, round by round.
    fn ratio(&self, table: &Table, ours: &str, lane: &str) -> Option<Figure> {
        let (ours, theirs) = (self.column(ours)?, self.column(lane)?);
        let ratios = table.rounds_ns.iter();
        Figure::of(
            ratios
                .filter_map(|round| Some(round[ours]? / round[theirs]?))
                .collect(),
        )
    }

    fn write_table(
        &self,
        f: &mut fmt::Formatter<'_>,
        title: &str,
        cell: impl Fn(&Table, &str) -> Option<Figure>,
    ) -> fmt::Result {
        writeln!(f, "| {title} | {} |", self.lanes.join(" | "))?;
        writeln!(f, "|---{}|", "|---".repeat(self.lanes.len()))?;
        for table in &self.tables {
            write!(f, "| {} |", table.case)?;
            for lane in &self.lanes {
                match cell(table, lane) {
                    Some(figure) => write!(f, " {figure:.2} |")?,
                    None => write!(f, " |")?,
                }
            }
            writeln!(f)?;
        }
        writeln!(f)
    }

    fn write_bounds(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (case, ours, theirs, bound) in BOUNDS {
            let table = self.tables.iter().find(|table| table.case == case);
            if let Some(ratio) = table.and_then(|table| self.ratio(table, ours, theirs)) {
                let verdict = if ratio.median <= bound {
                    "holds"
                } else {
                    "is missed"
                };
                writeln!(
                    f,
                    "{case}: {ours} {ratio:.2} times {theirs}, bound {bound} {verdict}"
                )?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Medians with quartiles of {} rounds.\n", self.rounds())?;
        self.write_table(f, "microseconds", |table, lane| {
            self.microseconds(table, lane)
        })?;
        if self.column(OURS).is_some() {
            self.write_table(f, "ours over theirs", |table, lane| {
                self.ratio(table, OURS, lane).filter(|_| lane != OURS)
            })?;
        }
        self.write_bounds(f)
    }
}
