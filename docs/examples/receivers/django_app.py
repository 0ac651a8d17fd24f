"""A receiver with Django in one file: pip install django standardwebhooks; python django_app.py runserver."""

import os
import sys

import django
from django.conf import settings
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST
from standardwebhooks import Webhook, WebhookVerificationError

webhook = Webhook(os.environ["RELAY_ENDPOINT_SECRET"])


@csrf_exempt
@require_POST
def receive(request: HttpRequest) -> HttpResponse:
    """Answer 204 to a genuine notification, after it is stored; 400 to anything else."""
    try:
        event = webhook.verify(request.body, {name.lower(): value for name, value in request.headers.items()})
    except WebhookVerificationError:
        return HttpResponse(status=400)
    print(event["type"], flush=True)  # store it here: the same event may come again, with the same webhook-id
    return HttpResponse(status=204)


urlpatterns = [path("hook", receive)]
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY=os.urandom(32).hex())
django.setup()
app = get_wsgi_application()

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
