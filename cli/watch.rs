//! `--watch`: a command that only looks, said again and again until an interrupt.
//!
//! On a terminal each look is drawn over the one before it, below a line that says what is looked
//! at and when; elsewhere looks stand behind each other. A look that fails is part of the picture:
//! the cluster may come back.

use std::time::Duration;

use super::{
    args::Command,
    client::Client,
    dispatch,
    term::{exit::Failure, output::Console, text},
};
use crate::base::clock::Clock;

pub async fn watch(
    command: &Command,
    every: Duration,
    context: Option<&str>,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    if !command.looks() {
        return Err(Failure::usage(
            "--watch is for commands that only look",
            "leave it out, or watch a list, a status, or the health of the cluster",
        ));
    }
    let clock = Clock::start();
    loop {
        let (mut look, seen) = console.aside();
        if let Err(failure) = dispatch(command.clone(), context, client, &mut look).await
            && !failure.is_silent()
        {
            look.complain(&failure);
        }
        let heading = format!(
            "every {} s, {}: {}\n\n",
            every.as_secs_f64(),
            text::when(clock.wall_ms()),
            words_of_this_process()
        );
        console.draw(&heading, &seen.text())?;
        tokio::time::sleep(every).await;
    }
}

fn words_of_this_process() -> String {
    let words: Vec<String> = std::env::args().skip(1).collect();
    format!("ddbctl {}", text::line(&words.join(" ")))
}
