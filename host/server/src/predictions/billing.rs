//! What predictions cost: device time in begun milliseconds at the hardware's price, and limits that stop before they are
//! passed. Money is counted in billionths of the currency's unit, so that sums are exact.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::names::VersionId;
use crate::problem::Problem;
use crate::store::ledger::Use;
use crate::store::now_ms;

/// Billed milliseconds of this much device time: those that were begun, and no floor beneath.
pub(crate) fn billed_ms(compute_us: u64) -> u64 {
    compute_us.div_ceil(1000)
}

/// The day of a time in Unix milliseconds, and the first day of its calendar month (UTC), both since 1970-01-01.
pub(crate) fn day_and_month(now: i64) -> (i64, i64) {
    let day = now.div_euclid(86_400_000);
    // The day of the month stands at the ninth and tenth place of the date.
    let date = crate::http::timestamp(now);
    let of_month: i64 = date.get(8..10).and_then(|text| text.parse().ok()).unwrap_or(1);
    (day, day - (of_month - 1))
}

/// What an owner may spend; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) day: Option<u64>,
    pub(crate) month: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    limit: Limit,
    day: i64,
    month: i64,
    spent_day: u64,
    spent_month: u64,
    /// Set aside for what is queued and running.
    reserved: u64,
}

impl Account {
    /// Begins new days and months.
    fn turn(&mut self, (day, month): (i64, i64)) {
        if self.month != month {
            (self.month, self.spent_month) = (month, 0);
        }
        if self.day != day {
            (self.day, self.spent_day) = (day, 0);
        }
    }

    /// What is left under the tighter limit, of which `reserved` is spoken for.
    fn left(&self) -> Option<u64> {
        let of = |limit: Option<u64>, spent: u64| limit.map(|limit| limit.saturating_sub(spent));
        let left = [
            of(self.limit.day, self.spent_day),
            of(self.limit.month, self.spent_month),
        ];
        left.into_iter().flatten().min()
    }
}

/// What every owner has spent and may spend.
#[derive(Default)]
pub(crate) struct Spend(Mutex<HashMap<Arc<str>, Account>>);

/// Money set aside for a call.
#[derive(Clone, Debug)]
pub(crate) struct Reserved {
    owner: Arc<str>,
    amount: u64,
    /// The most that the call may cost; nothing is no limit.
    pub(crate) at_most: Option<u64>,
}

impl Spend {
    fn with<T>(&self, owner: &Arc<str>, now: i64, change: impl FnOnce(&mut Account) -> T) -> T {
        let mut accounts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let account = accounts.entry(Arc::clone(owner)).or_default();
        account.turn(day_and_month(now));
        change(account)
    }

    /// What an owner has spent today and this month already.
    pub(crate) fn load(&self, owner: &Arc<str>, now: i64, day: u64, month: u64) {
        self.with(owner, now, |account| {
            (account.spent_day, account.spent_month) = (day, month);
        });
    }

    /// Sets what an owner may spend.
    pub(crate) fn limit(&self, owner: &Arc<str>, now: i64, limit: Limit) {
        self.with(owner, now, |account| account.limit = limit);
    }

    /// An owner's limit, and what is spent today and this month.
    pub(crate) fn of(&self, owner: &Arc<str>, now: i64) -> (Limit, u64, u64) {
        self.with(owner, now, |account| {
            (account.limit, account.spent_day, account.spent_month)
        })
    }

    /// Sets aside what a call will likely cost, or says no if that would pass the limit. All calls together may then cost at
    /// most what is left: each is stopped at its part.
    pub(crate) fn reserve(&self, owner: &Arc<str>, now: i64, amount: u64) -> Option<Reserved> {
        self.with(owner, now, |account| {
            let mut at_most = None;
            if let Some(left) = account.left() {
                let free = left.saturating_sub(account.reserved);
                if free == 0 || amount > free {
                    return None;
                }
                // Somebody with a limit leaves room for others of his calls, yet a call may cost more than was predicted.
                at_most = Some(amount.max(free / 2).max(1));
            }
            let amount = at_most.unwrap_or(amount);
            account.reserved = account.reserved.saturating_add(amount);
            Some(Reserved {
                owner: Arc::clone(owner),
                amount,
                at_most,
            })
        })
    }

    /// Gives back what was set aside, less what it cost.
    pub(crate) fn settle(&self, reserved: &Reserved, now: i64, cost: u64) {
        self.with(&reserved.owner, now, |account| {
            account.reserved = account.reserved.saturating_sub(reserved.amount);
            account.spent_day = account.spent_day.saturating_add(cost);
            account.spent_month = account.spent_month.saturating_add(cost);
        });
    }
}

/// Sets aside what a call that takes `predicted_us` of device time will cost.
pub(crate) fn reserve(
    spend: &Spend,
    owner: &Arc<str>,
    predicted_us: u64,
    price_per_ms: u64,
) -> Result<Option<Reserved>, Problem> {
    if price_per_ms == 0 {
        return Ok(None);
    }
    let predicted = billed_ms(predicted_us).saturating_mul(price_per_ms);
    match spend.reserve(owner, now_ms(), predicted) {
        Some(reserved) => Ok(Some(reserved)),
        None => Err(Problem::spend_limit()),
    }
}

/// How long a call may take before it would cost more than it may.
pub(crate) fn time_limit(reserved: Option<&Reserved>, price_per_ms: u64) -> Option<Duration> {
    let most = reserved?.at_most?;
    Some(Duration::from_millis((most / price_per_ms.max(1)).max(1)))
}

/// Gives back what was set aside for a call, less what it cost.
pub(crate) fn settle(spend: &Spend, reserved: Option<&Reserved>, cost: u64) {
    if let Some(reserved) = reserved {
        spend.settle(reserved, now_ms(), cost);
    }
}

/// Uses of calls that leave no row of their own, added up until they are written together.
#[derive(Default)]
pub(crate) struct Meter(Mutex<HashMap<Line, Use>>);

/// Owner, day, model, version and token.
type Line = (Arc<str>, i64, Arc<str>, VersionId, String);

impl Meter {
    /// Adds one.
    pub(crate) fn add(&self, used: Use) {
        let mut uses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (
            Arc::clone(&used.owner),
            used.day,
            Arc::clone(&used.model),
            used.version,
            used.token.clone(),
        );
        match uses.get_mut(&key) {
            None => {
                uses.insert(key, used);
            }
            Some(sum) => {
                sum.predictions += used.predictions;
                sum.cached += used.cached;
                sum.compute_us += used.compute_us;
                sum.billed_ms += used.billed_ms;
                sum.cost += used.cost;
            }
        }
    }

    /// Takes what has come together.
    pub(crate) fn take(&self) -> Vec<Use> {
        let mut uses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        uses.drain().map(|(_, used)| used).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const NOW: i64 = 1_795_446_245_678; // 2026-11-23

    #[test]
    fn a_begun_millisecond_is_billed_and_no_more() {
        for (us, ms) in [(0, 0), (1, 1), (999, 1), (1000, 1), (1001, 2), (60_000_000, 60_000)] {
            assert_eq!(billed_ms(us), ms);
        }
    }

    #[test]
    fn days_and_months_begin_where_the_calendar_says() {
        assert_eq!(day_and_month(NOW), (20_780, 20_780 - 22));
        assert_eq!(day_and_month(0), (0, 0));
        assert_eq!(day_and_month(951_782_400_000), (11_016, 11_016 - 28));
    }

    #[test]
    fn a_new_day_has_a_new_limit_and_a_month_goes_on() {
        let spend = Spend::default();
        let owner: Arc<str> = "o".into();
        spend.limit(
            &owner,
            NOW,
            Limit {
                day: Some(100),
                month: Some(150),
            },
        );
        let first = spend.reserve(&owner, NOW, 100).unwrap();
        spend.settle(&first, NOW, 100);
        assert!(spend.reserve(&owner, NOW, 1).is_none());
        let tomorrow = NOW + 86_400_000;
        let second = spend.reserve(&owner, tomorrow, 50).unwrap();
        spend.settle(&second, tomorrow, 50);
        assert!(spend.reserve(&owner, tomorrow, 1).is_none(), "the month's limit");
        assert!(spend.reserve(&owner, NOW + 20 * 86_400_000, 1).is_some());
    }

    #[test]
    fn uses_of_one_model_and_day_add_up() {
        let meter = Meter::default();
        let used = |model: &str, cost| Use {
            owner: "o".into(),
            day: 1,
            model: model.into(),
            version: VersionId([1; 32]),
            token: "t".to_owned(),
            predictions: 1,
            cached: 0,
            compute_us: 10,
            billed_ms: 1,
            cost,
        };
        meter.add(used("a", 5));
        meter.add(used("a", 6));
        meter.add(used("b", 7));
        let mut sums: Vec<_> = meter.take().into_iter().map(|u| (u.predictions, u.cost)).collect();
        sums.sort_unstable();
        assert_eq!(sums, [(1, 7), (2, 11)]);
        assert!(meter.take().is_empty());
    }

    proptest! {
        #[test]
        fn a_limit_is_never_passed(limit in 0_u64..10_000, calls in proptest::collection::vec((0_u64..500, 0_u64..2000), 0..60)) {
            let spend = Spend::default();
            let owner: Arc<str> = "o".into();
            spend.limit(&owner, NOW, Limit { day: Some(limit), month: None });
            let mut open = Vec::new();
            for (i, (predicted, actual)) in calls.into_iter().enumerate() {
                if let Some(reserved) = spend.reserve(&owner, NOW, predicted) {
                    open.push((reserved, actual));
                }
                if i % 3 == 0 && !open.is_empty() {
                    let (reserved, actual) = open.remove(0);
                    // A call is stopped at the most that it may cost.
                    spend.settle(&reserved, NOW, actual.min(reserved.at_most.unwrap()));
                }
            }
            for (reserved, actual) in open {
                spend.settle(&reserved, NOW, actual.min(reserved.at_most.unwrap()));
            }
            prop_assert!(spend.of(&owner, NOW).1 <= limit);
        }
    }
}
