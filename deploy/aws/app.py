"""The CDK app: flags -> three stacks -> templates and the functions' code in one folder, ready to be deployed.

build/deploy/bin/python -m deploy.aws.app --alarm-email ops@example.com     (make synth)
npx aws-cdk deploy --app build/aws --all                                    (docs/aws-deployment-checklist.md)
"""

import sys
from typing import Final

from aws_cdk import App, Environment

from deploy.aws.logging_account import LoggingAccount
from deploy.aws.settings import Settings, parse
from deploy.aws.stacks import Data, Service

#: The data's stack cannot lose what the service's uses.
FLAGS: Final = {"@aws-cdk/core:defaultCrossStackReferences": "strong"}


def build(settings: Settings) -> App:
    app = App(outdir=str(settings.output), analytics_reporting=False, context=FLAGS)
    env = Environment(region=settings.region)
    LoggingAccount(app, env)
    Service(app, settings, env, Data(app, settings, env))
    return app


if __name__ == "__main__":
    settings = parse(sys.argv[1:])
    build(settings).synth()
    sys.stdout.write(f"The templates are in {settings.output}.\n")
