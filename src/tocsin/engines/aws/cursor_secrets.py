"""What signs the places where pages begin: one generated secret, its present version and the one before.

    Secrets Manager -> read_cursor_secrets (with a process's first event) -> gateways/cursors.py

Rule: two versions are good, so that who is reading goes on when the secret is changed. A process goes on with what it
      has read; Lambda replaces it within hours.
"""

from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from tocsin.engines.aws.calls import Calls, code_of

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient


async def read_cursor_secrets(calls: "Calls[SecretsManagerClient]", arn: str) -> tuple[bytes, ...]:
    """The present one first."""
    present = await calls(lambda client: client.get_secret_value(SecretId=arn))
    try:
        former = await calls(lambda client: client.get_secret_value(SecretId=arn, VersionStage="AWSPREVIOUS"))
    except ClientError as error:
        if code_of(error) != "ResourceNotFoundException":
            raise
        return (present["SecretString"].encode(),)  # it was never changed
    return present["SecretString"].encode(), former["SecretString"].encode()
