//! Turns to fill (`fill = "one"`). The answer to who asks is a stream that stays open while its caller has the turn: a
//! caller that dies, gives up or forgets ends it, and its turn goes to the next one.

use std::time::Duration;

use grapevine_core::machine::effects::{FillTurn, Input, Reply};
use grapevine_core::machine::fills::ASK_PATIENCE;
use grapevine_proto::v1;
use tonic::Status;

use super::application::Application;
use super::unread::{Answers, Charged};
use super::writes::mistaken;
use crate::engine::{Call, Command, Held, INTAKE_WAIT, stopping};
use crate::wire::{app, status};

/// How much longer than its caller would wait an answer may take: a loop that is busy, and an arbiter that is silent.
const ANSWER_WAIT: Duration = Duration::from_secs(1).saturating_add(ASK_PATIENCE);

impl Application {
    pub(super) async fn acquire(
        &self,
        request: &v1::AcquireFillRequest,
    ) -> Result<Answers<v1::AcquireFillResponse>, Status> {
        let (key, wait) = app::acquiring(request)?;
        let deadline = self.engine.clock.now().plus(wait);
        let call = Call::AcquireFill(key, deadline);
        let answer = self.engine.call(call, None, wait + ANSWER_WAIT).await?;
        let turn = match answer.reply {
            Reply::Fill(turn) => turn,
            Reply::Refused(refusal) => return Err(status::refusal(&refusal)),
            _ => return Err(mistaken("a request for a turn")),
        };
        let lease = self.engine.core.read().config().lease_duration;
        let held = answer.held;
        let fill = held.as_ref().map(Held::fill);
        let (messages, answers) = Answers::channel(1);
        // There is room for the first message.
        let _ = messages.try_send(Charged::free(app::turn(turn, fill, lease)));
        if let (FillTurn::Won { .. }, Some(held)) = (turn, held) {
            let mut stop = self.stop.clone();
            tokio::spawn(async move {
                let _held = held;
                tokio::select! {
                    () = messages.closed() => {}
                    () = tokio::time::sleep(lease) => {}
                    _ = stop.wait_for(|stop| *stop) => {}
                }
            });
        }
        Ok(answers)
    }

    pub(super) async fn finish(&self, request: &v1::FinishFillRequest) -> Result<(), Status> {
        let Some(fill) = app::finishing(request)? else {
            return Ok(());
        };
        let ended = Command::Input(Input::EndFill(fill, request.stored));
        let urgent = &self.engine.urgent;
        match tokio::time::timeout(INTAKE_WAIT, urgent.send(ended)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(stopping()),
            Err(_) => {
                self.engine.counters.refused("limits.queue_commands_max");
                let message = "too many calls wait already (limits.queue_commands_max)";
                Err(status::exhausted(
                    message.to_owned(),
                    Duration::from_millis(200),
                ))
            }
        }
    }
}
