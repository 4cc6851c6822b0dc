//! Processor time of every process that a measurement keeps busy: on a machine with other work it says more than a rate.

use penstock_tests::Service;

/// Clock ticks of a second, as `/proc` counts them.
const TICKS: f64 = 100.0;

/// Processes whose time is counted.
pub struct Meter {
    services: Vec<(&'static str, u32)>,
    /// The postmaster. A backend that has ended is counted with it.
    postgres: Option<u32>,
    redis: Option<u32>,
    began: Vec<(&'static str, f64)>,
}

impl Meter {
    /// Of the services, and of the servers that they use. Counts from now on.
    pub fn start(services: &[(&'static str, &Service)], postgres: Option<u32>, redis: Option<u32>) -> Self {
        let services = services.iter().map(|(name, service)| (*name, service.pid())).collect();
        let mut meter = Self { services, postgres, redis, began: Vec::new() };
        meter.began = meter.now();
        meter
    }

    /// Prints CPU seconds for 1,000 rows, of each process and in all. The sum.
    pub fn say(&self, rows: u32) -> f64 {
        let thousand = f64::from(rows) / 1000.0;
        let each: Vec<(&str, f64)> =
            self.used().into_iter().map(|(name, used)| (name, used / thousand)).collect();
        let sum = each.iter().map(|(_, used)| used).sum();
        let parts: Vec<String> = each.iter().map(|(name, used)| format!("{name} {used:.3}")).collect();
        println!(
            "{:<60} {sum:>12.3} CPU s ({})",
            "all processes but the downstream, for 1,000 rows",
            parts.join(", ")
        );
        sum
    }

    /// CPU seconds of each process since the start.
    pub fn used(&self) -> Vec<(&'static str, f64)> {
        let used = self.now().into_iter().zip(&self.began);
        used.map(|((name, now), (_, began))| (name, now - began)).collect()
    }

    fn now(&self) -> Vec<(&'static str, f64)> {
        let mut used: Vec<_> = self.services.iter().map(|(name, pid)| (*name, seconds(*pid))).collect();
        if let Some(redis) = self.redis {
            used.push(("redis", seconds(redis)));
        }
        if let Some(postgres) = self.postgres {
            let backends = children(postgres).into_iter().map(seconds).sum::<f64>();
            used.push(("postgresql", seconds_with_ended(postgres) + backends));
        }
        used
    }
}

/// The process that another one was started by.
pub fn parent(pid: u32) -> Option<u32> {
    fields(pid)?.get(1)?.parse().ok()
}

/// `utime` and `stime` of a process; none of one that has ended.
fn seconds(pid: u32) -> f64 {
    ticks(pid, 11..13)
}

/// The same with that of the children that it has waited for.
fn seconds_with_ended(pid: u32) -> f64 {
    ticks(pid, 11..15)
}

fn ticks(pid: u32, places: std::ops::Range<usize>) -> f64 {
    let Some(fields) = fields(pid) else { return 0.0 };
    places.filter_map(|place| fields.get(place)?.parse::<f64>().ok()).sum::<f64>() / TICKS
}

/// The fields of `/proc/PID/stat` after the name.
fn fields(pid: u32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit(')').next()?.split_whitespace().map(str::to_owned).collect())
}

fn children(pid: u32) -> Vec<u32> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let numbers = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    numbers.filter(|child| parent(*child) == Some(pid)).collect()
}
