//! What was paid for answers, and to whom. Amounts are whole 10^-6 BLY as decimal strings.

use std::collections::BTreeMap;

use actix_web::{HttpRequest, HttpResponse, web};
use blyan_protocol::{BoxFuture, PublicError};
use blyan_reward::{Credited, Earner, Payouts, Supply, WalletAddress};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::admin::admin;
use super::error::{ApiError, ErrorBody, invalid};
use super::pricing::MicroBly;
use super::state::EdgeState;

const TOP_DEFAULT: usize = 20;
const TOP_MAX: usize = 1000;

/// What the edge asks about the ledger. While it is down each call is refused at once; no chat waits for it.
pub trait EconomyPort: Send + Sync {
    /// Its totals.
    fn supply(&self) -> BoxFuture<'_, Result<Supply, PublicError>>;
    /// Everybody who ever earned, the highest first.
    fn earners(&self) -> BoxFuture<'_, Result<Vec<Earner>, PublicError>>;
    /// What a wallet may spend, in 10^-6 BLY.
    fn balance(&self, of: WalletAddress) -> BoxFuture<'_, Result<u128, PublicError>>;
    /// Credits what was recorded and pays out what is due.
    fn distribute(&self) -> BoxFuture<'_, Result<(Credited, Payouts), PublicError>>;
    /// What each expert that was ever paid for has earned, by name, in 10^-6 BLY.
    fn earned_by_expert(&self) -> BoxFuture<'_, Result<BTreeMap<String, u64>, PublicError>>;
}

/// `GET /economy/supply`
#[derive(Serialize, ToSchema)]
pub struct SupplyReply {
    /// Ever issued: what was burned, accrued and paid out.
    #[schema(value_type = String)]
    issued: MicroBly,
    /// Ever burned.
    #[schema(value_type = String)]
    burned: MicroBly,
    /// What may ever be issued.
    #[schema(value_type = String)]
    cap: MicroBly,
    /// Earned, and not paid out yet.
    #[schema(value_type = String)]
    accrued: MicroBly,
    /// Receipts that were credited.
    receipts: u64,
    /// Their tokens, read and generated.
    tokens: u64,
}

/// The ledger's totals.
#[utoipa::path(get, path = "/economy/supply", tag = "economy", responses(
    (status = 200, body = SupplyReply),
    (status = 503, body = ErrorBody),
))]
pub async fn supply(state: web::Data<EdgeState>) -> Result<HttpResponse, ApiError> {
    let supply = state.economy.supply().await?;
    Ok(HttpResponse::Ok().json(SupplyReply {
        issued: MicroBly(supply.issued),
        burned: MicroBly(supply.burned),
        cap: MicroBly(supply.cap.into()),
        accrued: MicroBly(supply.accrued),
        receipts: supply.totals.receipts,
        tokens: supply.totals.tokens,
    }))
}

/// The query of `GET /economy/leaderboard`.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct LeaderboardQuery {
    /// How many, 1 to 1000; 20 where it is not said.
    limit: Option<usize>,
}

/// What an address earned.
#[derive(Serialize, ToSchema)]
pub struct EarnerReply {
    /// `0x` and 40 hex digits.
    address: String,
    /// Ever.
    #[schema(value_type = String)]
    earned: MicroBly,
    /// Of it, paid out to the wallet.
    #[schema(value_type = String)]
    paid: MicroBly,
    /// Of it, not paid out yet.
    #[schema(value_type = String)]
    accrued: MicroBly,
}

impl From<Earner> for EarnerReply {
    fn from(earner: Earner) -> Self {
        Self {
            address: earner.owner.to_string(),
            earned: MicroBly(earner.earned),
            paid: MicroBly(earner.paid),
            accrued: MicroBly(earner.earned.saturating_sub(earner.paid)),
        }
    }
}

/// `GET /economy/leaderboard`
#[derive(Serialize, ToSchema)]
pub struct LeaderboardReply {
    /// Most earned first.
    earners: Vec<EarnerReply>,
}

/// Who earned the most by their experts and nodes.
#[utoipa::path(get, path = "/economy/leaderboard", tag = "economy", params(LeaderboardQuery), responses(
    (status = 200, body = LeaderboardReply),
    (status = 503, body = ErrorBody),
))]
pub async fn leaderboard(
    state: web::Data<EdgeState>,
    query: web::Query<LeaderboardQuery>,
) -> Result<HttpResponse, ApiError> {
    let limit = query.limit.unwrap_or(TOP_DEFAULT);
    if !(1..=TOP_MAX).contains(&limit) {
        return Err(invalid(format_args!("limit must be 1 to {TOP_MAX}.")).into());
    }
    let earners = state.economy.earners().await?.into_iter().take(limit);
    let earners = earners.map(EarnerReply::from).collect();
    Ok(HttpResponse::Ok().json(LeaderboardReply { earners }))
}

/// What an address earned; zeros where it never did.
#[utoipa::path(get, path = "/economy/rewards/user/{address}", tag = "economy",
    params(("address" = String, Path, description = "`0x` and 40 hex digits")), responses(
    (status = 200, body = EarnerReply),
    (status = 400, body = ErrorBody),
    (status = 503, body = ErrorBody),
))]
pub async fn rewards(
    state: web::Data<EdgeState>,
    address: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let owner = address_of(&address)?;
    let earners = state.economy.earners().await?;
    let found = earners.into_iter().find(|earner| earner.owner == owner);
    let nothing = Earner {
        owner,
        earned: 0,
        paid: 0,
    };
    Ok(HttpResponse::Ok().json(EarnerReply::from(found.unwrap_or(nothing))))
}

/// `GET /wallet/balance/{address}`
#[derive(Serialize, ToSchema)]
pub struct BalanceReply {
    /// `0x` and 40 hex digits.
    address: String,
    /// What may be spent now.
    #[schema(value_type = String)]
    balance: MicroBly,
}

/// What a wallet holds; zero where nothing was ever paid to it.
#[utoipa::path(get, path = "/wallet/balance/{address}", tag = "economy",
    params(("address" = String, Path, description = "`0x` and 40 hex digits")), responses(
    (status = 200, body = BalanceReply),
    (status = 400, body = ErrorBody),
    (status = 503, body = ErrorBody),
))]
pub async fn balance(
    state: web::Data<EdgeState>,
    address: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let owner = address_of(&address)?;
    let balance = MicroBly(state.economy.balance(owner).await?);
    let address = owner.to_string();
    Ok(HttpResponse::Ok().json(BalanceReply { address, balance }))
}

/// `POST /economy/rewards/distribute`
#[derive(Serialize, ToSchema)]
pub struct DistributeReply {
    /// Receipts that were credited just before.
    credited: u64,
    /// Wallets that were paid.
    payouts: usize,
    /// The sum that they were paid.
    #[schema(value_type = String)]
    paid: MicroBly,
    /// What stays accrued: less than 10 BLY each, or over the day's budget of 100,000 BLY.
    #[schema(value_type = String)]
    carried_over: MicroBly,
}

/// Pays out now what the node pays out every hour anyway: zeros where nothing is due.
#[utoipa::path(post, path = "/economy/rewards/distribute", tag = "economy", responses(
    (status = 200, body = DistributeReply),
    (status = 401, body = ErrorBody),
    (status = 503, body = ErrorBody),
))]
pub async fn distribute(
    state: web::Data<EdgeState>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let who = admin(&state, &request)?;
    let (credited, payouts) = state.economy.distribute().await?;
    tracing::info!(
        who,
        paid = payouts.paid,
        "rewards were distributed by an order"
    );
    Ok(HttpResponse::Ok().json(DistributeReply {
        credited: credited.new,
        payouts: payouts.transfers.len(),
        paid: MicroBly(payouts.paid.into()),
        carried_over: MicroBly(payouts.carried_over),
    }))
}

fn address_of(text: &str) -> Result<WalletAddress, PublicError> {
    text.parse()
        .map_err(|_| invalid("An address is 0x and 40 hex digits."))
}
