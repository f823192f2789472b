"""What several tests look for in a template."""

from typing import Final

from deploy.aws.assembly import Assembly, Resource

#: What a person's token has when it was got with a password or SRP.
PERSON: Final = "aws.cognito.signin.user.admin"


def subscriptions(assembly: Assembly) -> list[Resource]:
    """Of queues."""
    return [each for each in assembly.of("AWS::SNS::Subscription") if each.properties["Protocol"] == "sqs"]


def variables(assembly: Assembly, name: str) -> set[str]:
    """What a variable is set to, in whichever function has it."""
    return {
        assembly.text(function.properties["Environment"]["Variables"][name])
        for function in assembly.of("AWS::Lambda::Function")
        if name in function.properties["Environment"]["Variables"]
    }
