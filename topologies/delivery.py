"""A target's delivery as a Faust app: ``WALSTREAM_TARGET=flights.base faust -A topologies.delivery worker``."""

from walstream.delivery.app import make_delivery
from walstream.worker import load

app = load(make_delivery)
