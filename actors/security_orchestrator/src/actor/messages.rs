use actix::Message;

use crate::SecurityError;
use crate::core::{Decided, IndicatorState, Order, Report};
use crate::handle::{ComponentStatus, Dashboard};

pub(super) type Reply<T> = Result<T, SecurityError>;

#[derive(Message)]
#[rtype(result = "Reply<Decided>")]
pub(crate) struct Decide(pub Order);

#[derive(Message)]
#[rtype(result = "Reply<()>")]
pub(crate) struct Tell(pub Report);

/// See [`SecurityHandle::enforce`](crate::SecurityHandle::enforce).
#[derive(Message)]
#[rtype(result = "Reply<()>")]
pub(crate) struct Enforce;

#[derive(Message)]
#[rtype(result = "Reply<ComponentStatus>")]
pub(crate) struct GetStatus(pub String);

#[derive(Message)]
#[rtype(result = "Reply<Vec<String>>")]
pub(crate) struct GetQuarantined;

#[derive(Message)]
#[rtype(result = "Reply<Vec<IndicatorState>>")]
pub(crate) struct GetIndicators;

#[derive(Message)]
#[rtype(result = "Reply<Dashboard>")]
pub(crate) struct GetDashboard;
