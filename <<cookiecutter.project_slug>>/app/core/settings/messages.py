"""Messages to people outside: e-mail, SMS, push, Slack."""

from typing import Literal

from pydantic import BaseModel, Field, SecretStr

from app.core.settings.base import Address, secret


class Messages(BaseModel):
    """E-mail, SMS, push and Slack. A channel that is not set up keeps its messages waiting, and says so."""

    mode: Literal["sandbox", "live"] | None = Field(
        default=None,
        description="sandbox keeps messages in the table `messages` instead of sending them. Empty: live in production, sandbox elsewhere.",
    )
    from_address: str = Field(default="", description="Sender of e-mails: service@example.com")
    from_name: str = Field(default="", description="Name of that sender. Empty: the service's.")
    smtp_host: str = Field(default="", description="Mail server.")
    smtp_port: int = Field(default=587, ge=1, le=65535, description="Its port: 587 for starttls, 465 for tls.")
    smtp_user: str = Field(default="", description="User there. Empty: no sign-in.")
    smtp_password: SecretStr = secret("Password of that user.", generated=False, required=False)
    smtp_tls: Literal["starttls", "tls", "none"] = Field(
        default="starttls",
        description="starttls and tls insist on a valid certificate; none is for a server beside this one.",
    )
    smtp_ca_file: str = Field(
        default="", description="File with the authority of the mail server's certificate. Empty: the machine's own."
    )
    sms_base_url: Address = Field(
        default="https://api.twilio.com", description="Address of Twilio, or of a provider that speaks its protocol."
    )
    sms_account: str = Field(default="", description="Account there (Twilio: the account's SID).")
    sms_token: SecretStr = secret("Token of that account.", generated=False, required=False)
    sms_from: str = Field(default="", description="Sender: a number as +4930123456, or a messaging service (MG…).")
    push_base_url: Address = Field(
        default="https://exp.host/--/api/v2/push", description="Address of the Expo push service."
    )
    push_token: SecretStr = secret(
        "Access token of Expo, where its project asks for one.", generated=False, required=False
    )
    slack_webhook_url: SecretStr = secret(
        "Incoming webhook of Slack; whoever knows it can post there.", generated=False, required=False
    )
    admin_email: str = Field(default="", description="Who is told by e-mail when another channel stays down.")
    timeout_seconds: float = Field(default=10, gt=0, description="Deadline of one delivery.")
    concurrency: int = Field(default=4, ge=1, le=50, description="Deliveries of one channel at the same time.")
    retry_seconds: float = Field(
        default=5,
        gt=0,
        description="Wait before a message's second attempt; doubles each time, up to an hour, with jitter.",
    )
    longest_pause_seconds: float = Field(
        default=6,
        gt=0,
        description="How long a channel that fails is left alone at most before one message tries it again.",
    )
    sweep_seconds: float = Field(default=3, gt=0, description="How often waiting messages are looked for.")
    give_up_hours: float = Field(
        default=48, gt=0, description="A message that could not be sent for so long is given up."
    )
    tell_after_seconds: float = Field(
        default=300, ge=0, description="The admin is told of a channel that has been down for so long, once."
    )
    keep_days: int = Field(default=30, ge=1, description="How long the table remembers a message that is over.")
