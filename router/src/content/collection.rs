//! Gives back the space of what no model declares any more. Several routers may do it at once, and it may end at any of its writes.
//!
//! ```text
//! used ─ nobody names it, and it is not new ─► discarded ─ nobody named it for the retention ─► gone
//!   ▲                                             │
//!   └───────────── whoever asks for it ───────────┘
//! ```
//! A decision is always about what was a moment ago: an import may have been told that a chunk is there, a model may have come back. So
//! nothing is removed that was not out of use for a long time first, and out of use means: still there for everyone who asks by its name.
//! Nobody waits for anybody, and what is done twice does no harm.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, SystemTime};

use futures::{StreamExt, TryStreamExt};

use super::{Content, ContentError, Document, Kind, LOOKS_AT_ONCE, Object, Place};
use crate::sha256_name::Sha256Name;

/// What is younger is not looked at: longer than an import takes, from its first chunk until a model's status names what it brought.
const SETTLING: Duration = Duration::from_secs(24 * 3600);

/// What one round did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    pub discarded: usize,
    pub restored: usize,
    pub removed: usize,
}

impl Content {
    /// One round. `used` are the manifests that models name; what is discarded stays for `retention`.
    ///
    /// # Errors
    /// When the store fails, or a manifest that is in use cannot be read: then it is not known which chunks are.
    pub async fn collect(&self, used: &BTreeSet<Sha256Name>, retention: Duration, now: SystemTime) -> Result<Collected, ContentError> {
        let mut round = Round { content: self, now, collected: Collected::default() };
        round.sort(Kind::Manifests, retention, |name| used.contains(name)).await?;
        let (seen, named) = round.named(&BTreeSet::new()).await?;
        for first_digit in 0..16 {
            // An import that was told that a chunk is there has as long to name it.
            let chunks = Kind::Chunks { first_digit };
            round.sort(chunks, retention.max(SETTLING), |name| named.contains(&short(name))).await?;
        }
        // What was published meanwhile may name what was discarded meanwhile.
        let (_, named_since) = round.named(&seen).await?;
        for first_digit in first_digits(&named_since) {
            for listed in self.store.list(Place::Discarded, Kind::Chunks { first_digit }).await? {
                if named_since.contains(&short(listed.object.name())) {
                    round.restore(listed.object).await?;
                }
            }
        }
        Ok(round.collected)
    }
}

/// Enough of a chunk's name: where two are alike, one is kept that could go.
fn short(name: &Sha256Name) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&name.bytes()[..8]);
    u64::from_be_bytes(first)
}

fn first_digits(names: &HashSet<u64>) -> BTreeSet<u8> {
    names.iter().map(|name| name.to_be_bytes()[0] >> 4).collect()
}

struct Round<'a> {
    content: &'a Content,
    now: SystemTime,
    collected: Collected,
}

impl Round<'_> {
    /// Discards what is used by nobody, restores what is, and removes what was discarded for longer than `kept`.
    async fn sort(&mut self, kind: Kind, kept: Duration, is_used: impl Fn(&Sha256Name) -> bool) -> Result<(), ContentError> {
        let store = &self.content.store;
        // In this order: what is discarded now is not removed in the same round, whatever the clocks say.
        let discarded = store.list(Place::Discarded, kind).await?;
        let in_use = store.list(Place::Used, kind).await?;
        for listed in &in_use {
            if !is_used(listed.object.name()) && self.is_older(listed.modified, SETTLING) {
                store.discard(listed.object).await?;
                self.collected.discarded += 1;
            }
        }
        let in_use: BTreeSet<Object> = in_use.iter().map(|listed| listed.object).collect();
        for listed in discarded {
            if is_used(listed.object.name()) && !in_use.contains(&listed.object) {
                self.restore(listed.object).await?;
            } else if self.is_older(listed.modified, kept) {
                store.forget(&listed).await?;
                self.collected.removed += 1;
            }
        }
        Ok(())
    }

    async fn restore(&mut self, object: Object) -> Result<(), ContentError> {
        if self.content.store.restore(object).await? {
            self.collected.restored += 1;
        }
        Ok(())
    }

    /// The manifests that are in use but for those of `before`, and the chunks that they name.
    async fn named(&self, before: &BTreeSet<Sha256Name>) -> Result<(BTreeSet<Sha256Name>, HashSet<u64>), ContentError> {
        let listed = self.content.store.list(Place::Used, Kind::Manifests).await?;
        let names: BTreeSet<Sha256Name> = listed.iter().map(|listed| *listed.object.name()).filter(|name| !before.contains(name)).collect();
        let chunks = async |name: Sha256Name| {
            // One that another router discarded meanwhile names nothing.
            let Some(bytes) = self.content.store.read(Document::Manifest(name)).await? else { return Ok(Vec::new()) };
            let manifest: runtime_api::ContentManifest = serde_json::from_slice(&bytes)?;
            let chunks = manifest.chunks().into_iter().filter_map(|(sha256, _)| Sha256Name::parse(sha256));
            Ok::<_, ContentError>(chunks.map(|name| short(&name)).collect())
        };
        let named = futures::stream::iter(names.clone()).map(chunks).buffer_unordered(LOOKS_AT_ONCE);
        let named = named.try_fold(HashSet::new(), async |mut all, chunks: Vec<u64>| {
            all.extend(chunks);
            Ok(all)
        });
        Ok((names, named.await?))
    }

    fn is_older(&self, modified: SystemTime, than: Duration) -> bool {
        self.now.duration_since(modified).is_ok_and(|age| age >= than)
    }
}
