"""Who speaks to a deployed stage: people with an account in its user pool, a back end, and the tokens that they get.

Deployed -> sign_up, back_end_token -> the doors
"""

import base64
import json
from contextlib import closing
from typing import Final

import boto3
import httpx
import msgspec

from tests.deploy.stage import Deployed

PASSWORD: Final = "Correct-Horse-7-Battery"
#: A function that has not run yet takes its time.
SECONDS: Final = 60.0


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """`user_id` is what the pool made up: a token's `sub`."""

    user_id: str
    access_token: str
    id_token: str


def sign_up(deployed: Deployed, name: str) -> Person:
    """Makes an account, and signs in with its password."""
    with closing(boto3.client("cognito-idp")) as cognito:
        cognito.admin_create_user(UserPoolId=deployed.user_pool_id, Username=name, MessageAction="SUPPRESS")
        cognito.admin_set_user_password(
            UserPoolId=deployed.user_pool_id, Username=name, Password=PASSWORD, Permanent=True
        )
        tokens = cognito.initiate_auth(
            ClientId=deployed.web_client_id,
            AuthFlow="USER_PASSWORD_AUTH",
            AuthParameters={"USERNAME": name, "PASSWORD": PASSWORD},
        )["AuthenticationResult"]
    access_token = tokens["AccessToken"]
    claims = json.loads(base64.urlsafe_b64decode(access_token.split(".")[1] + "==="))
    return Person(user_id=claims["sub"], access_token=access_token, id_token=tokens["IdToken"])


def back_end_token(deployed: Deployed, url: str) -> str:
    """An access token by client credentials, with every scope of ours. `url` is the emulator's."""
    with closing(boto3.client("cognito-idp")) as cognito:
        client = cognito.describe_user_pool_client(
            UserPoolId=deployed.user_pool_id, ClientId=deployed.machine_client_id
        )["UserPoolClient"]
    answer = httpx.post(
        f"{url}/oauth2/token",
        auth=(client["ClientId"], client["ClientSecret"]),
        data={"grant_type": "client_credentials"},
        timeout=SECONDS,
    )
    return str(answer.raise_for_status().json()["access_token"])
