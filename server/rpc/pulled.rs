//! A stream that makes its next piece when it is asked for one, and no earlier. A panic is its last
//! word: an end without one would look like all there is.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio_stream::Stream;
use tonic::Status;

use crate::{
    base::crew::{self, Role},
    wire,
};

/// One piece, if there is one, and what makes the next; none at the end.
pub type Made<S, T> = (Option<Result<T, Status>>, Option<S>);

type Making<S, T> = Pin<Box<dyn Future<Output = Made<S, T>> + Send>>;

/// See the module.
pub struct Pulled<S, T> {
    role: Role,
    maker: Option<S>,
    making: Option<Making<S, T>>,
    make: fn(S) -> Making<S, T>,
}

impl<S, T> Pulled<S, T> {
    pub fn new(role: Role, maker: S, make: fn(S) -> Making<S, T>) -> Pulled<S, T> {
        Pulled { role, maker: Some(maker), making: None, make }
    }
}

impl<S: Unpin + Send + 'static, T: Send + 'static> Stream for Pulled<S, T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if self.making.is_none() {
                let Some(maker) = self.maker.take() else { return Poll::Ready(None) };
                let (role, make) = (self.role, self.make);
                self.making = Some(Box::pin(async move {
                    let made = crew::watched(role, async move { make(maker).await }).await;
                    made.unwrap_or_else(|e| (Some(Err(wire::status_of(&e))), None))
                }));
            }
            let Some(making) = &mut self.making else { continue };
            let (piece, maker) = ready!(making.as_mut().poll(cx));
            (self.making, self.maker) = (None, maker);
            if piece.is_some() {
                return Poll::Ready(piece);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use tokio_stream::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn nothing_is_made_before_it_is_asked_for() {
        let asked = Arc::new(AtomicU32::new(0));
        let mut numbers = Pulled::new(Role::Scan, (asked.clone(), 0), |(asked, number)| {
            Box::pin(async move {
                asked.fetch_add(1, Ordering::Relaxed);
                let piece = (number % 2 == 0).then_some(Ok(number));
                (piece, (number < 4).then_some((asked, number + 1)))
            })
        });
        assert_eq!(asked.load(Ordering::Relaxed), 0);
        assert_eq!(numbers.next().await.unwrap().unwrap(), 0);
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        let mut rest = Vec::new();
        while let Some(number) = numbers.next().await {
            rest.push(number.unwrap());
        }
        assert_eq!(rest, [2, 4]);
    }
}
