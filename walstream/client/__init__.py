"""The client: writes records to namespaces, and says of each whether it is durable."""

from walstream.client.asynchronous import AsyncClient
from walstream.client.blocking import Client
from walstream.client.receipt import Durable, Receipt
from walstream.client.write import Write

__all__ = ["AsyncClient", "Client", "Durable", "Receipt", "Write"]
