use std::time::{Duration, Instant};

use cluster::{Forward, Needs, Space, in_namespace};
use k8s_openapi::api::core::v1::Pod;

use crate::shapes::{address, ready, server};

/// A server on each node. Returns the way to the one on node-1, and the address of the one on node-2.
async fn pair(space: &Space) -> anyhow::Result<(Forward, String)> {
    for number in [1, 2] {
        space.apply(&server(&format!("pod-{number}"), &format!("nodeName: node-{number}"))).await?;
    }
    let one = space.wait_for::<Pod>("pod-1", "ready", ready).await?;
    let two = space.wait_for::<Pod>("pod-2", "ready", ready).await?;
    let way = space.cluster().control()?.forward("control-plane", &format!("{}:8080", address(&one))).await?;
    Ok((way, format!("http://{}:8080", address(&two))))
}

#[test]
fn partitioned_nodes_lose_each_other_but_not_the_control_plane() {
    in_namespace("partition", Needs::Hosts, async |space| {
        let control = space.cluster().control()?;
        let (from_one, two) = pair(space).await?;
        let fetch = format!("/fetch?url={two}");
        assert_eq!(from_one.get(&fetch).await?, "pod-2\n");

        control.partition("node-1", "node-2").await?;
        let (status, _) = from_one.call("GET", &fetch).await?;
        assert_eq!(status, 502, "the other node's pod is not reached");
        assert_eq!(from_one.get("/").await?, "pod-1\n", "the control plane still reaches both");

        control.heal("node-1", "node-2").await?;
        space.retry("the partition to heal", async || from_one.get(&fetch).await).await?;
        Ok(())
    });
}

#[test]
fn a_slow_link_takes_the_time_that_its_rate_says() {
    in_namespace("slow-link", Needs::Hosts, async |space| {
        const RATE: u64 = 800_000; // bits per second
        const BYTES: usize = 300_000;
        let control = space.cluster().control()?;
        let (from_one, two) = pair(space).await?;
        let fetch = format!("/fetch?url={two}/bytes%3Fcount={BYTES}");
        assert_eq!(from_one.get(&fetch).await?.len(), BYTES);

        control.limit_rate("node-2", RATE).await?;
        let started = Instant::now();
        let fetched = from_one.get(&fetch).await;
        let took = started.elapsed();
        control.limit_rate("node-2", 0).await?;
        // A bound from below is physics, not speed: so many bits do not pass faster. What the queue holds at once is left out.
        let least = Duration::from_secs_f64(BYTES as f64 * 8.0 / RATE as f64 / 2.0);
        assert!(took > least, "{BYTES} bytes passed in {took:?}, at {RATE} bits per second that takes {least:?}: {fetched:?}");
        Ok(())
    });
}
