"""What the routes of one process share."""

from __future__ import annotations

from dataclasses import dataclass

from model_server.accounts.authentication import Authentication
from model_server.accounts.passwords import Passwords
from model_server.config import FeedbackSettings
from model_server.store.database import Database, url_of
from model_server.store.images import Images
from model_server.store.object_storage import open_storage


@dataclass(slots=True)
class Parts:
    """Connections and threads; made once, inside the running loop."""

    settings: FeedbackSettings
    database: Database
    authentication: Authentication
    passwords: Passwords
    images: Images

    @classmethod
    def make(cls, settings: FeedbackSettings) -> Parts:
        """Make them; raises SettingsError where the database's URL is wrong, or the image store's."""
        database = Database(url_of(settings), settings.database_connections)
        return cls(
            settings,
            database,
            Authentication(settings, database),
            Passwords(settings.password_threads),
            Images(database, open_storage(settings.image_store)),
        )

    async def close(self) -> None:
        """Close the connections, end the threads."""
        self.passwords.close()
        await self.database.close()
