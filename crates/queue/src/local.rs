//! The doorbell in one process: bounded channels.
//!
//! Not apalis' MemoryStorage: it has no bound, and a doorbell needs nothing of a job's life (retries, results,
//! priorities are SQL's).

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use crate::{Bell, BellError, Handler, MAX_BACKLOG, Message, Rung};

/// Bounded channels for rows and for extraction.
pub struct LocalBell {
    rows: mpsc::Sender<Message>,
    extractions: mpsc::Sender<Message>,
    rows_out: Mutex<mpsc::Receiver<Message>>,
    extractions_out: Mutex<mpsc::Receiver<Message>>,
}

impl Default for LocalBell {
    fn default() -> Self {
        let (rows, rows_out) = mpsc::channel(MAX_BACKLOG as usize);
        let (extractions, extractions_out) = mpsc::channel(MAX_BACKLOG as usize);
        Self {
            rows,
            extractions,
            rows_out: Mutex::new(rows_out),
            extractions_out: Mutex::new(extractions_out),
        }
    }
}

#[async_trait]
impl Bell for LocalBell {
    async fn ring(&self, messages: Vec<Message>) -> Result<Rung, BellError> {
        let mut rung = Rung::default();
        for message in messages {
            let queue = if matches!(message, Message::Rows(_)) { &self.rows } else { &self.extractions };
            match queue.try_send(message) {
                Ok(()) => rung.rung += 1,
                Err(_) => rung.held_back += 1,
            }
        }
        Ok(rung)
    }

    async fn backlog(&self) -> Result<u64, BellError> {
        Ok((self.rows.max_capacity() - self.rows.capacity()) as u64)
    }

    async fn ready(&self) -> Result<(), BellError> {
        Ok(())
    }

    async fn listen(&self, handler: Arc<dyn Handler>, stop: CancellationToken) {
        tokio::join!(drain(&self.rows_out, &handler, &stop), drain(&self.extractions_out, &handler, &stop));
    }
}

async fn drain(queue: &Mutex<mpsc::Receiver<Message>>, handler: &Arc<dyn Handler>, stop: &CancellationToken) {
    let mut queue = queue.lock().await;
    loop {
        let message = tokio::select! {
            () = stop.cancelled() => return,
            message = queue.recv() => message,
        };
        let Some(message) = message else { return };
        handler.handle(message).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Packet;
    use penstock_domain::ids::BatchSeq;

    struct Count(tokio::sync::mpsc::UnboundedSender<Message>);

    #[async_trait]
    impl Handler for Count {
        async fn handle(&self, message: Message) {
            self.0.send(message).unwrap();
        }
    }

    #[tokio::test]
    async fn messages_arrive_and_what_is_too_much_is_held_back() {
        let bell = Arc::new(LocalBell::default());
        let most = MAX_BACKLOG as usize;
        let rows = (0..most + 5).map(|_| Message::Rows(Packet::new(0))).collect();
        assert_eq!(bell.ring(rows).await.unwrap(), Rung { rung: most, held_back: 5 });
        assert_eq!(bell.backlog().await.unwrap(), most as u64);
        let extract = Message::Extract { batch: BatchSeq(1) };
        assert_eq!(
            bell.ring(vec![extract.clone()]).await.unwrap().rung,
            1,
            "a full queue of rows holds no file up"
        );
        let (sender, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let listening = tokio::spawn({
            let (bell, stop) = (bell.clone(), stop.clone());
            async move { bell.listen(Arc::new(Count(sender)), stop).await }
        });
        let mut extractions = 0;
        for _ in 0..=most {
            extractions += usize::from(heard.recv().await.unwrap() == extract);
        }
        assert_eq!(extractions, 1);
        stop.cancel();
        listening.await.unwrap();
    }
}
