//! Conversations as text: the template that a model was trained with, in Jinja.

use anyhow::{Context, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, context};
use serde::{Deserialize, Serialize};

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// What a person says.
    pub fn user(content: impl Into<String>) -> Self {
        Self { role: "user".into(), content: content.into() }
    }

    /// What the model says.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self { role: "assistant".into(), content: content.into() }
    }
}

/// How a conversation is written for a model.
///
/// Templates are rendered as `transformers` does: blocks take their line breaks with them, Python's methods of
/// strings, lists and dictionaries work, and `raise_exception` ends with its message. There is no clock:
/// templates that ask whether `strftime_now` is defined are told that it is not, so that a conversation is the
/// same text every day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatTemplate {
    source: String,
    bos_token: String,
    eos_token: String,
}

/// The parts of tokenizer_config.json that conversations need.
#[derive(Default, Deserialize)]
pub(super) struct TokenizerConfig {
    chat_template: Option<OneOrNamed>,
    bos_token: Option<TokenName>,
    eos_token: Option<TokenName>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrNamed {
    One(String),
    Named(Vec<Named>),
}

#[derive(Deserialize)]
struct Named {
    name: String,
    template: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TokenName {
    Plain(String),
    Added { content: String },
}

impl TokenName {
    fn into_string(self) -> String {
        match self {
            Self::Plain(content) | Self::Added { content } => content,
        }
    }
}

impl TokenizerConfig {
    /// From the text of a tokenizer_config.json.
    ///
    /// # Errors
    /// A text that is not JSON of this form.
    pub(super) fn from_json(text: &str) -> Result<Self> {
        serde_json::from_str(text).context("tokenizer_config.json")
    }

    /// The name of the token that ends a text or a turn, and the template: `separate` is that of a
    /// chat_template.jinja, which takes the place of the one in here.
    pub(super) fn into_parts(self, separate: Option<String>) -> (Option<String>, Option<ChatTemplate>) {
        let inside = self.chat_template.and_then(|template| match template {
            OneOrNamed::One(source) => Some(source),
            OneOrNamed::Named(all) => all.into_iter().find(|t| t.name == "default").map(|t| t.template),
        });
        let eos_token = self.eos_token.map(TokenName::into_string);
        let bos_token = self.bos_token.map(TokenName::into_string).unwrap_or_default();
        let template = separate
            .or(inside)
            .map(|source| ChatTemplate::new(source, bos_token, eos_token.clone().unwrap_or_default()));
        (eos_token, template)
    }
}

impl ChatTemplate {
    /// A template with the names of the tokens that it may write around a text.
    pub const fn new(source: String, bos_token: String, eos_token: String) -> Self {
        Self { source, bos_token, eos_token }
    }

    /// One turn per line, without a word on who speaks: for models that came without a template.
    pub fn plain() -> Self {
        let source = "{% for message in messages %}{{ message.content }}\n{% endfor %}";
        Self::new(source.into(), String::new(), String::new())
    }

    /// The conversation up to where the model is to speak. Special tokens are in the text by their names.
    ///
    /// # Errors
    /// A template that cannot be read, uses what is not known here, or refuses these messages.
    pub fn render(&self, messages: &[Message]) -> Result<String> {
        let mut environment = Environment::new();
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        let template = environment.template_from_str(&self.source).context("the model's chat template")?;
        template
            .render(context! {
                messages => Serde(messages),
                add_generation_prompt => true,
                bos_token => &self.bos_token,
                eos_token => &self.eos_token,
            })
            .context("the model's chat template")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(source: &str) -> ChatTemplate {
        ChatTemplate::new(source.into(), "<s>".into(), "</s>".into())
    }

    fn talk() -> Vec<Message> {
        vec![Message::user("  Hi "), Message::assistant("Hello"), Message::user("Bye")]
    }

    #[test]
    fn blocks_take_their_line_breaks_and_python_methods_work() {
        let source = "{{ bos_token }}\n{%- for m in messages %}\n    {% if m['role'] == 'user' %}\n[{{ m['content'].strip() }}]\n    \
                      {% else %}\n{{ m.content + eos_token }}\n    {% endif %}\n{% endfor %}\n\
                      {% if add_generation_prompt %}>{% endif %}";
        assert_eq!(template(source).render(&talk()).unwrap(), "<s>[Hi]\nHello</s>\n[Bye]\n>");
    }

    #[test]
    fn a_template_may_refuse_and_a_broken_one_is_told() {
        let refusing =
            "{% if messages[0].role != 'system' %}{{ raise_exception('say who you are') }}{% endif %}";
        let error = format!("{:#}", template(refusing).render(&talk()).unwrap_err());
        assert!(error.contains("say who you are"), "{error}");
        for broken in ["{% for", "{{ messages[0].nothing() }}", "{{ no_such_function() }}"] {
            let error = format!("{:#}", template(broken).render(&talk()).unwrap_err());
            assert!(error.contains("chat template"), "{broken}: {error}");
        }
        let clock = "{% if strftime_now is defined %}today{% else %}some day{% endif %}";
        assert_eq!(template(clock).render(&talk()).unwrap(), "some day");
    }

    #[test]
    fn the_plain_template_has_a_line_per_turn() {
        assert_eq!(ChatTemplate::plain().render(&talk()).unwrap(), "  Hi \nHello\nBye\n");
    }

    #[test]
    fn every_form_of_tokenizer_config_is_read() {
        let parts = |text: &str, separate: Option<&str>| {
            TokenizerConfig::from_json(text).unwrap().into_parts(separate.map(Into::into))
        };
        let (eos, found) = parts(
            r#"{"chat_template": "a{{ bos_token }}", "bos_token": "<b>", "eos_token": {"content": "<e>", "lstrip": false}}"#,
            None,
        );
        assert_eq!((eos.as_deref(), found.unwrap().render(&[]).unwrap().as_str()), (Some("<e>"), "a<b>"));
        let named = r#"{"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}"#;
        assert_eq!(parts(named, None).1.unwrap().render(&[]).unwrap(), "d");
        assert_eq!(parts(named, Some("s")).1.unwrap().render(&[]).unwrap(), "s");
        assert_eq!(parts(r#"{"eos_token": null}"#, None), (None, None));
        assert!(TokenizerConfig::from_json("{").is_err());
    }
}
