"""What signs the places where pages begin: one generated secret, its present version and the one before.

    Secrets Manager -> read_cursor_secrets (once, at cold start) -> gateways/cursors.py

Rule: two versions are good, so that who is reading goes on when the secret is changed. A process knows what it has read
      at its start; Lambda replaces it within hours.
"""

import boto3
from botocore.exceptions import ClientError

from tocsin.engines.aws.calls import code_of, config


def read_cursor_secrets(arn: str) -> tuple[bytes, ...]:
    """The present one first."""
    client = boto3.client("secretsmanager", config=config(1, seconds=3.0))
    secrets = [client.get_secret_value(SecretId=arn)["SecretString"]]
    try:
        secrets.append(client.get_secret_value(SecretId=arn, VersionStage="AWSPREVIOUS")["SecretString"])
    except ClientError as error:
        if code_of(error) != "ResourceNotFoundException":
            raise
        # It was never changed.
    finally:
        client.close()
    return tuple(secret.encode() for secret in secrets)
