//! Stands between an operator and the API server: counts its writes, ends it at one of them, and loses, delays and cuts what they say to each
//! other, all from a seed.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt as _;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use kube::{Client, client::Body};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::sync::Notify;

type Error = Box<dyn std::error::Error + Send + Sync>;
type Answer = Response<UnsyncBoxBody<Bytes, Error>>;

/// In percent: writes that get lost, writes whose answer gets lost, writes that are refused for now, and pieces of a watch that get lost. A
/// reconciliation has five writes and begins anew seconds after a failure: with more than this, some would not succeed within the deadline.
const LOST_WRITES: u32 = 5;
const LOST_ANSWERS: u32 = 5;
const REFUSED_WRITES: u32 = 5;
const LOST_EVENTS: u32 = 20;
/// Watches that are cut in one run. The watchers wait longer after each, up to half a minute: without an end no run would end.
const MOST_CUTS: usize = 4;
/// How much later than everything else Deployments become known.
const LATE: Duration = Duration::from_secs(2);
/// How stale a watch may be.
const LONGEST_DELAY_MS: u64 = 300;

/// What is done to the operator.
#[derive(Clone, Copy, Debug)]
pub(super) enum Plan {
    /// Nothing.
    Watch,
    /// It ends at its n-th write, counted from 1: before the API server gets it, or after it was carried out.
    Crash { at: usize, carried_out: bool },
    /// It learns last which Deployments there are.
    LateDeployments,
    /// Writes and events are lost and late.
    Chaos { seed: u64 },
}

/// A plan that is carried out.
#[derive(Debug)]
pub(super) struct Interference {
    plan: Plan,
    writes: AtomicUsize,
    cuts: AtomicUsize,
    random: Mutex<StdRng>,
    crashed: Notify,
}

/// What happens to one request.
enum Fate {
    Pass,
    Lose,
    LoseAnswer,
    Refuse,
    CrashBefore,
    CrashAfter,
}

impl Interference {
    pub(super) fn new(plan: Plan) -> Arc<Self> {
        let seed = if let Plan::Chaos { seed } = plan { seed } else { 0 };
        let none = AtomicUsize::default;
        Arc::new(Self { plan, writes: none(), cuts: none(), random: Mutex::new(StdRng::seed_from_u64(seed)), crashed: Notify::new() })
    }

    /// Writes until now.
    pub(super) fn writes(&self) -> usize {
        self.writes.load(Ordering::Relaxed)
    }

    /// Ends when the operator is to end.
    pub(super) async fn crashed(&self) {
        self.crashed.notified().await;
    }

    /// A client whose requests go through here.
    pub(super) fn client(self: &Arc<Self>, inner: Client) -> Client {
        let this = Arc::clone(self);
        let service = tower::service_fn(move |request: Request<Body>| {
            let (this, inner) = (Arc::clone(&this), inner.clone());
            async move { this.pass(inner, request).await }
        });
        Client::new(service, "default")
    }

    async fn pass(self: Arc<Self>, inner: Client, request: Request<Body>) -> Result<Answer, Error> {
        if matches!(self.plan, Plan::LateDeployments) && request.method() == Method::GET && request.uri().path().ends_with("/deployments") {
            tokio::time::sleep(LATE).await;
        }
        let is_watch = request.uri().query().is_some_and(|query| query.contains("watch="));
        match self.fate(request.method()) {
            Fate::Pass => {}
            Fate::Lose => return Err("the connection was cut before the request arrived".into()),
            Fate::LoseAnswer => {
                inner.send(request).await?.into_body().collect().await?;
                return Err("the connection was cut before the answer arrived".into());
            }
            Fate::Refuse => return Ok(refusal()),
            Fate::CrashBefore => return self.crash().await,
            Fate::CrashAfter => {
                inner.send(request).await?.into_body().collect().await?;
                return self.crash().await;
            }
        }
        let (parts, body) = inner.send(request).await?.into_parts();
        let is_chaos = matches!(self.plan, Plan::Chaos { .. });
        let body = if is_watch && is_chaos { self.disturb(body) } else { body.map_err(Error::from).boxed_unsync() };
        Ok(Response::from_parts(parts, body))
    }

    fn fate(&self, method: &Method) -> Fate {
        if method == Method::GET {
            return Fate::Pass;
        }
        let write = self.writes.fetch_add(1, Ordering::Relaxed) + 1;
        match self.plan {
            Plan::Crash { at, carried_out } if at == write => {
                if carried_out {
                    Fate::CrashAfter
                } else {
                    Fate::CrashBefore
                }
            }
            Plan::Chaos { .. } => match self.percent() {
                dice if dice < LOST_WRITES => Fate::Lose,
                dice if dice < LOST_WRITES + LOST_ANSWERS => Fate::LoseAnswer,
                dice if dice < LOST_WRITES + LOST_ANSWERS + REFUSED_WRITES => Fate::Refuse,
                _ => Fate::Pass,
            },
            _ => Fate::Pass,
        }
    }

    /// What asked for it never hears of it again.
    async fn crash(&self) -> Result<Answer, Error> {
        self.crashed.notify_one();
        std::future::pending().await
    }

    /// Pieces of a watch come late. Where one is lost, the API server says that it no longer knows what came before, as it does when its
    /// history is compacted, and ends the watch.
    fn disturb(self: Arc<Self>, body: Body) -> UnsyncBoxBody<Bytes, Error> {
        let disturbed = futures::stream::unfold(Some(body.into_data_stream()), move |stream| {
            let this = Arc::clone(&self);
            async move {
                let mut stream = stream?;
                let piece = stream.next().await?;
                tokio::time::sleep(this.delay()).await;
                match piece {
                    // Only whole lines can be taken out without spoiling what follows.
                    Ok(piece) if piece.ends_with(b"\n") && this.cuts() => Some((Ok(Frame::data(Bytes::from_static(EXPIRED))), None)),
                    piece => Some((piece.map(Frame::data).map_err(Error::from), Some(stream))),
                }
            }
        });
        StreamBody::new(disturbed).boxed_unsync()
    }

    fn cuts(&self) -> bool {
        self.percent() < LOST_EVENTS && self.cuts.fetch_add(1, Ordering::Relaxed) < MOST_CUTS
    }

    fn percent(&self) -> u32 {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).random_range(0..100)
    }

    fn delay(&self) -> Duration {
        Duration::from_millis(self.random.lock().unwrap_or_else(PoisonError::into_inner).random_range(0..LONGEST_DELAY_MS))
    }
}

const EXPIRED: &[u8] = b"{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{},\"status\":\"Failure\",\
                         \"message\":\"too old resource version\",\"reason\":\"Expired\",\"code\":410}}\n";

fn refusal() -> Answer {
    let status = Bytes::from_static(
        b"{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{},\"status\":\"Failure\",\"message\":\"the server is busy\",\
          \"reason\":\"ServiceUnavailable\",\"code\":503}",
    );
    let mut answer = Response::new(Full::new(status).map_err(Error::from).boxed_unsync());
    *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    answer
}
