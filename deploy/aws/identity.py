"""Who may speak: the Cognito user pool, the scopes of our resource server, a client for people and one for back ends.

Rules:
- the pool and its clients outlive every stack: without the pool all accounts are gone, and new client ids are new to
  every program that has the old ones;
- nobody signs up by himself: an account is made by whoever runs the service;
- a person's token (password or SRP) has no scope of ours; a back end's (client credentials) has them, and no user name.
"""

from typing import Final

from aws_cdk import Aws, Duration, RemovalPolicy
from aws_cdk import aws_cognito as cognito
from constructs import Construct

from deploy.aws.settings import Settings
from tocsin.identity import SCOPES

#: A scope in a token is `tocsin/<scope>` (SCOPE_PREFIX).
RESOURCE_SERVER: Final = "tocsin"
#: Every access token of a person has this scope, and no other, when it was not got through a hosted page.
PERSONS_SCOPE: Final = "aws.cognito.signin.user.admin"
ACCESS_SCOPES: Final = (PERSONS_SCOPE, *(f"{RESOURCE_SERVER}/{scope}" for scope in sorted(SCOPES)))


class Identity(Construct):
    def __init__(self, scope: Construct, settings: Settings) -> None:
        super().__init__(scope, "Identity")
        self.pool: Final = cognito.UserPool(
            self,
            "Users",
            user_pool_name=settings.named("tocsin"),
            self_sign_up_enabled=False,
            sign_in_aliases=cognito.SignInAliases(username=True),
            sign_in_case_sensitive=False,
            password_policy=cognito.PasswordPolicy(
                min_length=12,
                require_lowercase=True,
                require_uppercase=True,
                require_digits=True,
                require_symbols=True,
            ),
            account_recovery=cognito.AccountRecovery.EMAIL_ONLY,
            deletion_protection=True,
            removal_policy=RemovalPolicy.RETAIN,
        )
        scopes = [
            cognito.ResourceServerScope(scope_name=name, scope_description=f"Tocsin: {name}") for name in sorted(SCOPES)
        ]
        server = self.pool.add_resource_server(
            "Scopes", identifier=RESOURCE_SERVER, user_pool_resource_server_name="Tocsin", scopes=scopes
        )
        server.apply_removal_policy(RemovalPolicy.RETAIN)
        self.web: Final = self.pool.add_client(
            "Web",
            user_pool_client_name=settings.named("tocsin-web"),
            auth_flows=cognito.AuthFlow(user_password=True, user_srp=True),
            disable_o_auth=True,
            access_token_validity=Duration.hours(1),
            id_token_validity=Duration.hours(1),
            refresh_token_validity=Duration.days(30),
            enable_token_revocation=True,
            prevent_user_existence_errors=True,
        )
        self.machine: Final = self.pool.add_client(
            "Machine",
            user_pool_client_name=settings.named("tocsin-machine"),
            generate_secret=True,
            o_auth=cognito.OAuthSettings(
                flows=cognito.OAuthFlows(client_credentials=True),
                scopes=[cognito.OAuthScope.resource_server(server, each) for each in scopes],
            ),
            access_token_validity=Duration.hours(1),
            enable_token_revocation=True,
            prevent_user_existence_errors=True,
        )
        # The token endpoint's host is unique in the Region, over all accounts.
        domain = self.pool.add_domain(
            "Domain",
            cognito_domain=cognito.CognitoDomainOptions(domain_prefix=f"{settings.prefix}tocsin-{Aws.ACCOUNT_ID}"),
        )
        for kept in (self.web, self.machine, domain):
            kept.apply_removal_policy(RemovalPolicy.RETAIN)
        self.token_endpoint: Final = f"{domain.base_url()}/oauth2/token"
        self.issuer: Final = f"https://cognito-idp.{Aws.REGION}.{Aws.URL_SUFFIX}/{self.pool.user_pool_id}"
        self.jwks_url: Final = f"{self.issuer}/.well-known/jwks.json"
