"""The delivery engine: from a host's transaction to a merchant's server.

Glossary, used with one meaning everywhere:

* **notification** - one event for one endpoint: frozen payload, due time, outcome.
* **merchant** - whom the host does business with; has one or more endpoints.
* **endpoint** - where and how one merchant is called: URL, ack rule, secret, limits.
* **profile** - how a platform wants to be told: scheme, encoding, field map, ack rule, schedule;
  frozen into the endpoint that chooses it.
* **lane** - the queue of one endpoint, or of one host when notifications carry their own
  ``notify_url``; health, in-flight cap, rate limit and breaker are kept per lane.
* **line** - the unfinished notifications of one endpoint and ordering key, by id; the first is
  sent, the others are *blocked* until their turn comes.
* **supersede** - a newer notification of a line takes the place of the undelivered older ones.
* **attempt** - one try to send a notification; numbers only rise.
* **ack rule** - what the merchant must answer for the notification to count as delivered.
* **reply** - what really came back from the merchant, or why nothing did.
* **verdict** - what a reply means: delivered, retry, dead or hold.
* **claim** - taking due notifications for sending; its number fences off late writers.
* **lease** - how long a claim holds; after it anyone may claim again.
* **settle** - writing a verdict, guarded by state and claim number.
* **doorbell** - a message without data: "there may be work".
* **dead letter** - a notification given up, with its reason.
* **redrive** - sending a dead letter again, on somebody's order.
* **tick** - the timer inside every worker that keeps work moving without the broker.
* **freeze** - holding an endpoint that keeps failing until it acknowledges a ping.
* **inbox** - a table any language may INSERT into; the tick turns its rows into notifications.
"""
