//! KV shapes of models: by name, by figures, or from a model's configuration without its weights.

use anyhow::{Context, Result, bail};
use candle_core::quantized::gguf_file::Content;
use kvq_codec::KvShape;
use serde_json::Value;

use crate::model::open_gguf;
use crate::model::registry::{self, Location};

/// The name of a [known](registry::KNOWN) model, or `layers,kv_heads,head_dim`.
///
/// # Errors
/// Neither, or figures that the codec refuses.
pub fn parse_shape(text: &str) -> Result<KvShape, String> {
    if let Some(known) = registry::KNOWN.iter().find(|known| known.name == text) {
        return Ok(known.kv_shape);
    }
    let figures: Vec<usize> = text.split(',').map_while(|part| part.trim().parse().ok()).collect();
    let &[n_layers, n_kv_heads, head_dim] = &figures[..] else {
        let names: Vec<&str> = registry::KNOWN.iter().map(|known| known.name).collect();
        return Err(format!("allowed are LAYERS,KV_HEADS,HEAD_DIM and {}", names.join(", ")));
    };
    let shape = KvShape::new(n_layers, n_kv_heads, head_dim);
    shape.check().map(|()| shape).map_err(|error| error.to_string())
}

/// The KV shape of the model that `spec` stands for, from its configuration on this machine.
///
/// # Errors
/// A model that is not here, or a configuration without these figures.
pub fn of_model(spec: &str) -> Result<KvShape> {
    match registry::locate(spec) {
        Some(Location::Builtin) => from_config(include_str!("../../assets/builtin/config.json")),
        Some(Location::Folder(folder)) => {
            let path = folder.join("config.json");
            let config =
                std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            from_config(&config).with_context(|| path.display().to_string())
        }
        Some(Location::Gguf(path)) => {
            from_gguf(&open_gguf(&path)?.0).with_context(|| path.display().to_string())
        }
        _ => bail!("--model {spec}: its files are not on this machine; give its figures with --shape"),
    }
}

/// From a config.json of any decoder: GPT-2's names of the figures or everyone else's.
fn from_config(json: &str) -> Result<KvShape> {
    let config: Value = serde_json::from_str(json).context("config.json")?;
    let config = config.get("text_config").unwrap_or(&config);
    let figure = |keys: &[&str]| {
        keys.iter()
            .find_map(|key| config[*key].as_u64())
            .map(|n| n as usize)
            .with_context(|| format!("no {}", keys[0]))
    };
    let n_heads = figure(&["num_attention_heads", "n_head"])?;
    let width = figure(&["hidden_size", "n_embd"])?;
    Ok(KvShape::new(
        figure(&["num_hidden_layers", "n_layer"])?,
        figure(&["num_key_value_heads"]).unwrap_or(n_heads),
        figure(&["head_dim"]).unwrap_or(width / n_heads.max(1)),
    ))
}

fn from_gguf(content: &Content) -> Result<KvShape> {
    let architecture = content.metadata.get("general.architecture").context("no general.architecture")?;
    let architecture = architecture.to_string()?;
    let figure = |key: &str| -> Result<usize> {
        let key = format!("{architecture}.{key}");
        let value = content.metadata.get(&key).with_context(|| format!("no {key}"))?;
        Ok(value.to_u32()? as usize)
    };
    let n_heads = figure("attention.head_count")?;
    Ok(KvShape::new(
        figure("block_count")?,
        figure("attention.head_count_kv").unwrap_or(n_heads),
        match figure("attention.key_length") {
            Ok(head_dim) => head_dim,
            Err(_) => figure("embedding_length")? / n_heads.max(1),
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_figures_are_shapes_and_others_are_refused() {
        assert_eq!(parse_shape("30,3,64"), Ok(KvShape::new(30, 3, 64)));
        assert_eq!(parse_shape("smollm2-135m"), Ok(KvShape::new(30, 3, 64)));
        for (text, expected) in
            [("30,3", "LAYERS"), ("a,b,c", "gpt2"), ("1,1,7", "multiples of 4"), ("1,2,8,9", "LAYERS")]
        {
            let error = parse_shape(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        for known in registry::KNOWN {
            assert_eq!(known.kv_shape.check(), Ok(()), "{}", known.name);
        }
        assert_eq!(of_model("builtin").unwrap(), registry::KNOWN[0].kv_shape);
    }

    #[test]
    fn configurations_of_both_namings_are_read() {
        let own = r#"{"n_layer": 3, "n_head": 4, "n_embd": 128}"#;
        assert_eq!(from_config(own).unwrap(), KvShape::new(3, 4, 32));
        let nested = r#"{"text_config": {"num_hidden_layers": 2, "num_attention_heads": 8, "hidden_size": 64,
            "num_key_value_heads": 1, "head_dim": 256}}"#;
        assert_eq!(from_config(nested).unwrap(), KvShape::new(2, 1, 256));
        assert!(from_config("{}").is_err());
        assert_eq!(of_model("builtin").unwrap(), KvShape::new(3, 4, 32));
    }
}
