//! The doorbell in one process: bounded lanes.
//!
//! Not apalis' MemoryStorage: it has no bound, and a doorbell needs nothing of a job's life (retries, results,
//! priorities are SQL's).

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::{Bell, BellError, Handler, MAX_BACKLOG, Message, Packet, Rung};

/// How often lanes are looked at again whose rows the handler had no room for.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Bounded lanes for rows, and a channel for extraction.
pub struct LocalBell {
    lanes: Mutex<VecDeque<(String, VecDeque<Packet>)>>,
    rung: Notify,
    extractions: mpsc::Sender<Message>,
    extractions_out: tokio::sync::Mutex<mpsc::Receiver<Message>>,
}

impl Default for LocalBell {
    fn default() -> Self {
        let (extractions, extractions_out) = mpsc::channel(MAX_BACKLOG as usize);
        Self {
            lanes: Mutex::default(),
            rung: Notify::new(),
            extractions,
            extractions_out: tokio::sync::Mutex::new(extractions_out),
        }
    }
}

impl LocalBell {
    fn push(&self, packet: Packet) -> bool {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let index = lanes.iter().position(|(name, _)| name == packet.lane()).unwrap_or_else(|| {
            lanes.push_back((packet.lane().to_owned(), VecDeque::new()));
            lanes.len() - 1
        });
        let lane = &mut lanes[index].1;
        let room = lane.len() < MAX_BACKLOG as usize;
        if room {
            lane.push_back(packet);
        }
        room
    }

    /// The next packet of a lane that has one and for which there is room; that lane's next turn is after the others'.
    /// Or whether any has one at all.
    fn pop(&self, has_room: &dyn Fn(&str) -> bool) -> Result<Packet, bool> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = lanes.iter().any(|(_, packets)| !packets.is_empty());
        let turn =
            lanes.iter().position(|(name, packets)| !packets.is_empty() && has_room(name)).ok_or(waiting)?;
        let mut lane = lanes.remove(turn).ok_or(waiting)?;
        let packet = lane.1.pop_front().ok_or(waiting);
        lanes.push_back(lane);
        packet
    }

    async fn listen_to_rows(&self, handler: &dyn Handler, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            // Asked for before the look, so that a ring between look and wait is heard.
            let rung = self.rung.notified();
            match self.pop(&|lane| handler.has_room(lane)) {
                Ok(packet) => handler.handle(Message::Rows(packet)).await,
                Err(waiting) => {
                    let again = if waiting { LOOK_AGAIN } else { Duration::from_secs(3600) };
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = rung => {}
                        () = tokio::time::sleep(again) => {}
                    }
                }
            }
        }
    }
}

#[async_trait]
impl Bell for LocalBell {
    async fn ring(&self, messages: Vec<Message>) -> Result<Rung, BellError> {
        let mut rung = Rung::default();
        for message in messages {
            let taken = match message {
                Message::Rows(packet) => self.push(packet),
                extract @ Message::Extract { .. } => self.extractions.try_send(extract).is_ok(),
            };
            if taken {
                rung.rung += 1;
            } else {
                rung.held_back += 1;
            }
        }
        self.rung.notify_waiters();
        Ok(rung)
    }

    async fn backlog(&self) -> Result<HashMap<String, u64>, BellError> {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(lanes.iter().map(|(name, packets)| (name.clone(), packets.len() as u64)).collect())
    }

    async fn ready(&self) -> Result<(), BellError> {
        Ok(())
    }

    async fn listen(&self, handler: Arc<dyn Handler>, stop: CancellationToken) {
        tokio::join!(
            self.listen_to_rows(handler.as_ref(), &stop),
            listen_to_extractions(&self.extractions_out, handler.as_ref(), &stop)
        );
    }
}

async fn listen_to_extractions(
    queue: &tokio::sync::Mutex<mpsc::Receiver<Message>>,
    handler: &dyn Handler,
    stop: &CancellationToken,
) {
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
    use penstock_domain::ids::BatchSeq;

    /// Has room for everything but one lane.
    struct Count {
        heard: mpsc::UnboundedSender<Message>,
        full: &'static str,
    }

    #[async_trait]
    impl Handler for Count {
        async fn handle(&self, message: Message) {
            self.heard.send(message).unwrap();
        }

        fn has_room(&self, lane: &str) -> bool {
            lane != self.full
        }

        fn lanes(&self) -> Vec<String> {
            Vec::new()
        }
    }

    fn rows(lane: &str) -> Message {
        Message::Rows(Packet::new(lane, 0))
    }

    async fn heard(bell: &Arc<LocalBell>, full: &'static str, messages: usize) -> Vec<Message> {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let handler = Arc::new(Count { heard: sender, full });
        let listening = tokio::spawn({
            let (bell, stop) = (bell.clone(), stop.clone());
            async move { bell.listen(handler, stop).await }
        });
        let mut all = Vec::new();
        for _ in 0..messages {
            all.push(receiver.recv().await.unwrap());
        }
        stop.cancel();
        listening.await.unwrap();
        all
    }

    #[tokio::test]
    async fn messages_arrive_and_what_is_too_much_is_held_back() {
        let bell = Arc::new(LocalBell::default());
        let most = MAX_BACKLOG as usize;
        let messages = (0..most + 5).map(|_| rows("one")).collect();
        assert_eq!(bell.ring(messages).await.unwrap(), Rung { rung: most, held_back: 5 });
        assert_eq!(bell.backlog().await.unwrap()["one"], most as u64);
        let extract = Message::Extract { batch: BatchSeq(1) };
        let more = bell.ring(vec![extract.clone(), rows("other")]).await.unwrap();
        assert_eq!(more.rung, 2, "a full lane holds up neither a file nor another lane");
        let all = heard(&bell, "", most + 2).await;
        assert_eq!(all.iter().filter(|message| **message == extract).count(), 1);
        assert!(all[..4].contains(&rows("other")), "lanes take turns");
    }

    #[tokio::test]
    async fn a_lane_without_room_waits_and_holds_nobody_up() {
        let bell = Arc::new(LocalBell::default());
        bell.ring(vec![rows("hangs"), rows("hangs"), rows("goes"), rows("goes")]).await.unwrap();
        assert_eq!(heard(&bell, "hangs", 2).await, [rows("goes"), rows("goes")]);
        assert_eq!(heard(&bell, "", 2).await, [rows("hangs"), rows("hangs")]);
    }
}
