"""The courier: the ClientApp that Flower starts for each message. It carries envelopes and can open none.

It hands the envelope to the site agent on a UNIX socket and carries the answer back. It imports neither PyTorch nor
diffusers: Flower starts a process for each message, and a process that loads a model takes many seconds.
Whatever fails becomes an error reply; nothing but a sealed envelope is ever sent as content.
"""

from __future__ import annotations

import grpc
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from common.courier_records import from_envelope, to_envelope
from common.errors import AgentError
from common.proto import bottega_pb2 as pb
from common.proto import bottega_pb2_grpc as rpc

SOCKET_SETTING = "agent-socket"
_OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))

app = ClientApp()


@app.train()  # type: ignore[untyped-decorator]
def carry(message: Message, context: Context) -> Message:
    """Carry a task to the agent and its answer back.

    Raises:
        AgentError: The agent cannot be reached, or believes nothing of what it was given.
        EnvelopeError: The message carries no envelope.

    Flower's `run_clientapp` makes an error reply of whatever is raised here, with the error's words as its reason.
    """
    socket = context.node_config.get(SOCKET_SETTING)
    if not isinstance(socket, str):
        raise AgentError(
            "the SuperNode was not told where the site agent listens", expected=f"{SOCKET_SETTING} in its --node-config"
        )
    letter, body = to_envelope(message.content)
    answer = hand_over(socket, pb.Envelope(letter=letter, body=body), message.metadata.ttl)
    return Message(from_envelope(answer.letter, answer.body), reply_to=message)


def hand_over(socket: str, envelope: pb.Envelope, timeout_s: float) -> pb.Envelope:
    """Give an envelope to the agent on ``socket`` and return its answer.

    Raises:
        AgentError: It cannot be reached, does not answer in time, or refuses the envelope.
    """
    with grpc.insecure_channel(f"unix:{socket}", options=_OPTIONS) as channel:
        try:
            answer: pb.Envelope = rpc.SiteAgentStub(channel).Answer(envelope, timeout=timeout_s)
        except grpc.RpcError as cause:
            reason = cause.details() if cause.code() is grpc.StatusCode.FAILED_PRECONDITION else cause.code().name
            raise AgentError("the site agent gave no answer", got=reason, expected="a sealed answer") from None
    return answer
