//! `generate --chat`: turns of a conversation, all in one cache.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::{Context, Result, ensure};

use super::sequence::Sequence;
use super::{Args, Finished, stream_to_stdout, summary};
use crate::cli::shared::Session;
use crate::measure::CacheChoice;
use crate::model::{ChatTemplate, Message};

/// Note of records, and of standard error, on a model whose files have no template.
const NO_TEMPLATE: &str = "the model has no chat template: each turn is a line of plain text";

/// Answers every `--prompt`, or else every line of standard input.
pub fn run(args: &Args, session: &Session, cache: &CacheChoice) -> Result<Finished> {
    let mut finished = Finished::new(if args.prompt.is_empty() { "standard input" } else { "--prompt" });
    let shown = args.common.shows_text();
    let template = session.loaded.chat_template.clone().unwrap_or_else(|| {
        eprintln!("note: {NO_TEMPLATE}");
        finished.notes.push(NO_TEMPLATE.into());
        ChatTemplate::plain()
    });
    let mut sequence = Sequence::open(session, cache, args.load_state.as_deref())?;
    let typed = args.prompt.is_empty() && std::io::stdin().is_terminal();
    let mut lines = std::io::stdin().lock().lines();
    let mut given = args.prompt.iter();
    loop {
        let turn = if args.prompt.is_empty() {
            if typed && shown {
                print!("> ");
                std::io::stdout().flush()?;
            }
            lines.next().transpose().context("standard input")?
        } else {
            given.next().cloned()
        };
        let Some(turn) = turn else { break };
        if turn.trim().is_empty() {
            continue;
        }
        if shown && !typed {
            println!("> {turn}");
        }
        sequence.messages.push(Message::user(turn.as_str()));
        let prompt = session.loaded.tokenizer.encode(&template.render(&sequence.messages)?, false)?;
        let options = args.options(prompt.len(), session)?;
        let answer = sequence.generate(prompt, &options, |piece| stream_to_stdout(shown, piece))?;
        if shown {
            println!();
        }
        sequence.messages.push(Message::assistant(answer.run.new_text.clone().unwrap_or_default()));
        if let Some(path) = &args.save_state {
            sequence.save(path)?;
        }
        finished.add(&turn, answer);
    }
    ensure!(!finished.answers.is_empty(), "--chat: nothing was said on standard input");
    if shown && let Some(answer) = finished.answers.last() {
        print!("\n{}", summary(answer));
    }
    Ok(finished)
}
