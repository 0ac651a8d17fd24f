"""Why a PostgreSQL cannot be opened: one table from asyncpg's errors to a sentence with the host and what to do."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from relay.errors import RelayError, SettingsError, StorageUnavailable
from relay.storage.engine.database_url import PostgresTarget


@contextmanager
def explained(target: PostgresTarget) -> Iterator[None]:
    """Raise SettingsError for what only the operator can mend, StorageUnavailable for what may pass by itself."""
    try:
        yield
    except RelayError:
        raise
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        raise _refusal(error, target) from None


@contextmanager
def explained_rights() -> Iterator[None]:
    """Raise SettingsError where the role may not do in the database what a start or a migration has to do."""
    try:
        yield
    except (asyncpg.InsufficientPrivilegeError, asyncpg.InvalidSchemaNameError) as error:
        raise SettingsError(
            f"the role of DATABASE_URL may not make or use relay's tables: {first_line(error)}. Make it the owner "
            "of the database, GRANT it CREATE ON SCHEMA public, or run `relay migrate` as a role that may"
        ) from None


def first_line(error: BaseException) -> str:
    """Return what the server or the driver says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _refusal(error: Exception, target: PostgresTarget) -> RelayError:
    """Return the error that the operator reads."""
    at = f"the database server at {target.at}"
    match error:
        case asyncpg.InvalidCatalogNameError():
            return SettingsError(
                f"{at} has no database {target.database!r}: create it, or name another in DATABASE_URL"
            )
        case asyncpg.InvalidAuthorizationSpecificationError() | asyncpg.InsufficientPrivilegeError():
            return SettingsError(f"{at} refuses the role of DATABASE_URL: {first_line(error)}")
        case asyncpg.CannotConnectNowError():
            return StorageUnavailable(f"{at} accepts no connections yet: {first_line(error)}")
        case asyncpg.PostgresConnectionError() | asyncpg.InsufficientResourcesError():
            return StorageUnavailable(f"{at} refuses the connection: {first_line(error)}")
        case asyncpg.TargetServerAttributeNotMatched():
            return StorageUnavailable(f"{at} is not what target_session_attrs requires")
        case asyncpg.OperatorInterventionError():
            return StorageUnavailable(f"{at} is stopping: {first_line(error)}")
        case asyncpg.PostgresError():
            return SettingsError(f"{at} refuses DATABASE_URL: {first_line(error)}")
        case ssl.SSLError():
            return SettingsError(f"TLS with {at} fails (sslmode, sslrootcert): {first_line(error)}")
        case socket.gaierror():
            return StorageUnavailable(f"the host of DATABASE_URL has no address: {target.at}")
        case TimeoutError():
            return StorageUnavailable(f"{at} does not answer within {target.arguments['timeout']:g} s")
        case ConnectionError() if "SSL upgrade" in str(error):
            return SettingsError(f"{at} speaks no TLS, and the sslmode of DATABASE_URL requires it")
        case ConnectionRefusedError() | FileNotFoundError() | OSError():
            refused = "Connect call failed" in str(error) or isinstance(error, ConnectionRefusedError)
            return StorageUnavailable(f"{at} does not answer: {'connection refused' if refused else first_line(error)}")
        case asyncpg.InterfaceError() | ValueError():
            return SettingsError(f"DATABASE_URL cannot be used: {first_line(error)}")
    return StorageUnavailable(f"{at} does not answer: {first_line(error)}")
