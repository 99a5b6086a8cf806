//! Experts taken from model files are what an import makes, and come back from other tools as they went.

use std::path::{Path, PathBuf};

use blyan_chain::{ChainReader, DataDir};
use blyan_formats::tensorblock::{TensorBuf, write_tensorblock};
use blyan_formats::{Tensor, TensorName};
use blyan_model::experts::{
    ExpertError, ExpertOrigin, ExpertSource, ModelFiles, Wanted, write_payload,
};
use blyan_model::{SourceFile, recipe::Recipe};
use blyan_protocol::ModelDescription;
use blyan_supervisors::NoProbe;
use proptest::prelude::*;

use crate::support::{EXPERTS, HIDDEN, LAYERS, run_import, toy_recipe, write_toy};

struct World {
    folder: tempfile::TempDir,
    recipe: Recipe,
    model: ModelDescription,
}

/// A toy model that was imported.
fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let file = SourceFile::read(&write_toy(folder.path(), 1)).unwrap();
    let recipe = toy_recipe(&file);
    run_import(&folder.path().join("data"), &file, &recipe, 1, &NoProbe).unwrap();
    let reader = ChainReader::open_read_only(DataDir::new(folder.path().join("data"))).unwrap();
    World {
        model: reader.model(None).unwrap(),
        folder,
        recipe,
    }
}

impl World {
    fn payload_path(&self, name: TensorName) -> PathBuf {
        let payload = self.model.entries[&name].payload;
        DataDir::new(self.folder.path().join("data")).payload(payload)
    }

    fn payload(&self, name: TensorName) -> Vec<u8> {
        std::fs::read(self.payload_path(name)).unwrap()
    }

    fn write_out(&self, name: TensorName, path: &Path) -> Result<(), ExpertError> {
        let entry = &self.model.entries[&name];
        let origin = ExpertOrigin {
            name,
            block: entry.block,
        };
        write_payload(&self.payload_path(name), entry.payload, origin, path)
    }

    fn wanted(&self, name: TensorName) -> Wanted {
        Wanted::of(&self.model.architecture, name).unwrap()
    }

    fn extract(&self, path: &Path, name: TensorName) -> Vec<u8> {
        let files = ModelFiles::open(path).unwrap();
        let source = files.source().unwrap();
        let expert = source.extract(&self.wanted(name), Some(&self.recipe));
        payload_of(&expert.unwrap())
    }
}

fn payload_of(expert: &TensorBuf) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_tensorblock(&expert.as_tensor(), &mut bytes).unwrap();
    bytes
}

fn names() -> impl Iterator<Item = TensorName> {
    let experts = |layer| (0..EXPERTS.per_layer).map(move |e| TensorName::expert_of(layer, e));
    (0..LAYERS as u16).flat_map(experts)
}

#[test]
fn an_expert_of_the_imported_file_has_the_imported_bytes() {
    let world = world();
    for name in names() {
        let extracted = world.extract(&world.folder.path().join("toy-1.gguf"), name);
        assert!(extracted == world.payload(name), "{name}");
    }
}

#[test]
fn an_expert_that_was_written_out_comes_back_with_the_same_bytes() {
    let world = world();
    for name in names() {
        let path = world.folder.path().join(format!("{name}.safetensors"));
        world.write_out(name, &path).unwrap();
        assert!(world.extract(&path, name) == world.payload(name), "{name}");
    }
}

#[test]
fn what_is_written_names_its_origin_and_replaces_nothing() {
    let world = world();
    let name = TensorName::expert_of(1, 2);
    let path = world.folder.path().join("e.safetensors");
    world.write_out(name, &path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let said = header.metadata().clone().unwrap();
    assert_eq!(said["expert"], "layer1.expert2");
    assert_eq!(said["block"], world.model.entries[&name].block.to_string());
    let neurons = EXPERTS.neurons as usize;
    assert_eq!(header.info("gate").unwrap().shape, [neurons, HIDDEN]);
    assert_eq!(header.info("down").unwrap().shape, [HIDDEN, neurons]);

    let again = world.write_out(name, &path).unwrap_err();
    assert!(again.to_string().contains("File exists"), "{again}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_damaged_payload_is_not_written_out() {
    let world = world();
    let name = TensorName::expert_of(0, 1);
    let payload = world.payload_path(name);
    let mut bytes = std::fs::read(&payload).unwrap();
    bytes[3000] ^= 1;
    std::fs::write(&payload, bytes).unwrap();
    let path = world.folder.path().join("e.safetensors");
    let refused = world.write_out(name, &path).unwrap_err();
    assert!(
        refused.to_string().contains("layer0.expert1 is damaged"),
        "{refused}"
    );
    assert!(!path.exists());
}

/// Bits of any float that is a number, also the very small and the very large.
fn any_number() -> impl Strategy<Value = f32> {
    any::<u32>().prop_map(|bits| {
        let value = f32::from_bits(bits);
        if value.is_finite() { value } else { 1.5 }
    })
}

proptest! {
    /// What an expert loses by int8 it loses once: a round trip through fp32 changes nothing more.
    #[test]
    fn quantising_what_was_quantised_changes_nothing(values in prop::collection::vec(any_number(), 64)) {
        let once = TensorBuf::quantise_int8_blocks(1, 64, &values).unwrap();
        let mut widened = vec![0.0; 64];
        let tensor: Tensor<'_> = once.as_tensor();
        tensor.dequantise_into(&mut widened).unwrap();
        prop_assume!(widened.iter().all(|value| value.is_finite()));
        prop_assert_eq!(TensorBuf::quantise_int8_blocks(1, 64, &widened).unwrap(), once);
    }
}

#[test]
fn a_folder_of_shards_is_one_model() {
    let world = world();
    let shards = world.folder.path().join("shards");
    std::fs::create_dir(&shards).unwrap();
    let matrix = |rows: usize, cols: usize| vec![0u8; rows * cols * 4];
    let neurons = EXPERTS.neurons as usize;
    let (wide, tall) = (matrix(neurons, HIDDEN), matrix(HIDDEN, neurons));
    let prefix = "model.layers.1.block_sparse_moe.experts.4";
    for (shard, name, shape, data) in [
        (0, "w1", [neurons, HIDDEN], &wide),
        (0, "w3", [neurons, HIDDEN], &wide),
        (1, "w2", [HIDDEN, neurons], &tall),
    ] {
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.into(), data);
        let file = [(format!("{prefix}.{name}.weight"), view.unwrap())];
        let path = shards.join(format!("model-{shard}-{name}.safetensors"));
        std::fs::write(path, safetensors::serialize(file, None).unwrap()).unwrap();
    }
    std::fs::write(shards.join("config.json"), "{}").unwrap();
    let zeros =
        TensorBuf::quantise_int8_blocks(3 * neurons, HIDDEN, &vec![0.0; 3 * neurons * HIDDEN]);
    let found = world.extract(&shards, TensorName::expert_of(1, 4));
    assert_eq!(found, payload_of(&zeros.unwrap()));

    let empty = world.folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let refused = ModelFiles::open(&empty).err().unwrap();
    assert!(
        refused.to_string().contains("holds no .safetensors"),
        "{refused}"
    );
}

#[test]
fn only_experts_of_the_model_can_be_wanted() {
    let world = world();
    let refusal = |name: &str| {
        let wanted = Wanted::of(&world.model.architecture, name.parse().unwrap());
        wanted.unwrap_err().to_string()
    };
    assert!(refusal("layer1.router").contains("is not an expert"));
    assert!(refusal("layer2.expert0").contains("layers 0 to 1"));
    assert!(refusal("layer0.expert6").contains("experts 0 to 5"));
}

#[test]
fn a_dense_file_needs_a_recipe_that_fits() {
    let world = world();
    let bytes = std::fs::read(world.folder.path().join("toy-1.gguf")).unwrap();
    let source = ExpertSource::parse(&bytes).unwrap();
    let wanted = world.wanted(TensorName::expert_of(1, 3));
    let without = source.extract(&wanted, None).unwrap_err();
    assert!(
        without.to_string().contains("a recipe must say"),
        "{without}"
    );
    let mut recipe = world.recipe.clone();
    recipe.layers.pop();
    let short = source.extract(&wanted, Some(&recipe)).unwrap_err();
    assert!(
        short.to_string().contains("the recipe does not fit"),
        "{short}"
    );
}
