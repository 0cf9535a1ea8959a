//! Which text is trained on: a folder, WikiText-2 from the network, or the built-in corpus.

use atbptt::train::data::{Corpus, CorpusOptions, SyntheticConfig, download::WikiText2};

use super::options::outcome::Result;
use super::options::{Settings, Text};

/// Loads the text of `settings` and says which one it is. Where it was left open, the choice is written into `settings`,
/// so that a resumed run reads the same.
pub fn load(settings: &mut Settings) -> Result<Corpus> {
    let options = CorpusOptions {
        max_tokens: settings.max_tokens,
        max_eval_tokens: settings.max_tokens.map(|limit| (limit / 10).max(1)),
        ..CorpusOptions::default()
    };
    let corpus = match &settings.text {
        Text::Folder(folder) => Corpus::from_folder(folder, &options)?,
        Text::BuiltIn => built_in(settings.max_tokens)?,
        Text::WikiText2OrBuiltIn => match WikiText2::new().and_then(|source| source.fetch()) {
            Ok(folder) => {
                let corpus = Corpus::from_folder(&folder, &options)?;
                settings.text = Text::Folder(folder);
                corpus
            }
            Err(error) => {
                println!("WikiText-2 is not available: {error}");
                println!();
                println!(
                    "  *** Training on the BUILT-IN CORPUS: generated sentences, not real text. ***"
                );
                println!(
                    "  *** Give a folder with --data to train on a text of your own.           ***"
                );
                println!();
                settings.text = Text::BuiltIn;
                built_in(settings.max_tokens)?
            }
        },
    };
    Ok(corpus)
}

/// The built-in corpus, its size limited like a folder's would be.
fn built_in(max_tokens: Option<usize>) -> Result<Corpus> {
    let default = SyntheticConfig::default();
    let config = match max_tokens {
        Some(limit) => {
            let eval = (limit / 10).max(2);
            default.with_tokens(limit, eval, eval)
        }
        None => default,
    };
    Ok(Corpus::synthetic(&config)?)
}
