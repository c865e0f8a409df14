//! Models of several families on one replica, at the same time.

use diffusion::{DType, Device};
use runtime::engine::Diffusion;
use runtime::worker::Limits;
use runtime_api::{Dispatch, FailureReason};

use crate::house::House;
use crate::puppet::Gate;
use crate::{tiny_flux, tiny_model};

async fn house() -> House {
    let house = House::with_engine(Diffusion::new(Device::Cpu, DType::F32), Gate::closed(), Limits::default()).await;
    tiny_model::write(&house.models.path().join("demo"));
    tiny_flux::write(&house.models.path().join("flux"));
    house
}

fn of(house: &House, model: &str, name: &str, seed: u64) -> Dispatch {
    let mut dispatch = house.dispatch(name);
    dispatch.model = house.source(model);
    dispatch.request.width = Some(32);
    dispatch.request.height = Some(16);
    dispatch.request.num_inference_steps = Some(3);
    dispatch.request.seed = Some(seed);
    dispatch.request.max_sequence_length = (model == "flux").then_some(16);
    dispatch
}

#[tokio::test]
async fn families_draw_side_by_side_what_they_draw_alone() {
    let together = house().await;
    let asked = [("demo", 1), ("flux", 1), ("demo", 2), ("flux", 2)];
    let name = |(model, seed): (&str, u64)| format!("{model}-{seed}");
    let mut streams = Vec::new();
    for (model, seed) in asked {
        streams.push(together.send(&of(&together, model, &name((model, seed)), seed)).await);
    }
    for stream in streams {
        stream.done().await;
    }
    let alone = house().await;
    for (model, seed) in asked {
        alone.send(&of(&alone, model, &name((model, seed)), seed)).await.done().await;
        let (pixels, expected) = (together.storage.pixels(&name((model, seed))), alone.storage.pixels(&name((model, seed))));
        assert_eq!((pixels.width, pixels.height), (32, 16));
        assert!(pixels.rgb.iter().any(|&value| value != pixels.rgb[0]), "the picture is one flat colour");
        assert_eq!(pixels, expected, "{model} {seed}");
    }
    assert_ne!(together.storage.pixels("flux-1"), together.storage.pixels("flux-2"));
}

#[tokio::test]
async fn what_only_another_family_heeds_is_the_callers_to_mend() {
    let house = house().await;
    let mut sampler = of(&house, "flux", "sampler", 1);
    sampler.request.sampler = Some("EulerDiscreteScheduler".to_owned());
    let mut side = of(&house, "flux", "side", 1);
    side.request.width = Some(40);
    let mut third = of(&house, "demo", "third", 1);
    third.request.prompt_3 = Some("a".to_owned());
    for (dispatch, named) in [(sampler, "FlowMatchEulerDiscreteScheduler"), (side, "multiple of 16"), (third, "prompt_3")] {
        let (reason, message) = house.send(&dispatch).await.failure().await;
        assert_eq!(reason, FailureReason::InvalidRequest);
        assert!(message.contains(named), "{message}");
    }
}
