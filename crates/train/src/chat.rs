//! Conversations as a model was trained to read them.

use minijinja::{Environment, Error, ErrorKind, context};
use serde::Serialize;

use crate::error::{Result, TrainError};

/// What somebody said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// The words.
    pub content: String,
}

impl Message {
    /// What `role` said.
    pub fn new(role: &str, content: &str) -> Self {
        Message { role: role.to_owned(), content: content.to_owned() }
    }
}

/// The Jinja template of a tokenizer's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatTemplate {
    source: String,
    bos_token: String,
    eos_token: String,
}

impl ChatTemplate {
    /// A template, with the tokens that begin and end texts.
    pub fn new(source: &str, bos_token: &str, eos_token: &str) -> Self {
        ChatTemplate {
            source: source.to_owned(),
            bos_token: bos_token.to_owned(),
            eos_token: eos_token.to_owned(),
        }
    }

    /// The template itself.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of a conversation, up to where the assistant begins to answer.
    ///
    /// # Errors
    /// [`TrainError::Chat`] if the template is damaged, or refuses the conversation.
    pub fn render(&self, messages: &[Message]) -> Result<String> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        let told = |error: Error| TrainError::Chat(error.to_string());
        environment.add_template("chat", &self.source).map_err(told)?;
        let template = environment.get_template("chat").map_err(told)?;
        let text = template.render(context! {
            messages => messages,
            add_generation_prompt => true,
            bos_token => self.bos_token,
            eos_token => self.eos_token,
        });
        text.map_err(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_render_as_transformers_renders_them() {
        let chatml = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
            {{ '<|im_start|>system\nBe kind<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + \
            message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}\
            {{ '<|im_start|>assistant\n' }}{% endif %}";
        let template = ChatTemplate::new(chatml, "<s>", "</s>");
        let text = template.render(&[Message::new("user", "Hi")]).expect("the template is good");
        let expected =
            "<|im_start|>system\nBe kind<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(text, expected);
        // Blocks on lines of their own leave no line behind, and Python's methods are there.
        let source = "{{ bos_token }}\n{% for m in messages %}\n  {% if m.role == 'user' %}\n[{{ m.content.strip() }}]\n  {% endif %}\n{% endfor %}\n";
        let template = ChatTemplate::new(source, "<s>", "</s>");
        let text = template.render(&[Message::new("user", " Hi ")]).expect("the template is good");
        assert_eq!(text, "<s>\n[Hi]\n");
    }

    #[test]
    fn what_a_template_refuses_is_told() {
        let source =
            "{% if messages[0].role == 'system' %}{{ raise_exception('no system messages') }}{% endif %}";
        let told = ChatTemplate::new(source, "", "").render(&[Message::new("system", "x")]);
        assert!(told.expect_err("it is refused").to_string().contains("no system messages"));
        assert!(ChatTemplate::new("{% for %}", "", "").render(&[]).is_err());
    }
}
