//! The logon form: browsers log on here, and their requests carry a sealed cookie from then on.

use pingora_proxy::Session;

use super::{
    Context,
    in_force::InForce,
    respond::{Answer, Denial},
};
use crate::{identity::MailboxName, secret::Secret};

/// What the logon form has to do with a request.
pub(super) enum Form {
    /// Nothing.
    Apart,
    /// It answers.
    Answer(Answer),
    /// It comes from somebody who has logged on.
    LoggedOn(LoggedOn),
}

/// Somebody who has logged on by the form, as the cookie says.
pub(super) struct LoggedOn {
    pub user: MailboxName,
    /// What they have logged on with, if the edge needs it to sign in for them.
    pub password: Option<Secret>,
}

impl InForce {
    /// Whether the form answers a request, or who sends it. A request with a credential of its own is apart.
    #[allow(clippy::unused_async)] // it will verify passwords
    pub(super) async fn form(&self, _: &mut Session, _: &mut Context) -> Result<Form, Denial> {
        Ok(Form::Apart)
    }
}
