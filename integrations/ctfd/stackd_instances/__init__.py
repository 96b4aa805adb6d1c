"""A CTFd plugin: stackd's stacks as instances of challenges, for each player or team.

This folder goes into CTFd/plugins. It needs nothing that CTFd does not ship.
"""

PLUGIN = "stackd_instances"


def load(app):
    """Register everything; CTFd calls this once in each process."""
    # Imported here, so that the modules that know nothing of CTFd can be imported without it.
    from CTFd.constants.plugins import Plugins
    from CTFd.plugins import (
        Menu,
        register_admin_plugin_menu_bar,
        register_plugin_assets_directory,
        register_user_page_menu_bar,
    )
    from CTFd.plugins.challenges import CHALLENGE_CLASSES
    from CTFd.plugins.flags import FLAG_CLASSES
    from flask import url_for

    from . import access, admin, challenge, health, models, routes
    from .worker import Worker

    models.create_tables()
    CHALLENGE_CLASSES[challenge.StackdChallengeType.id] = challenge.StackdChallengeType
    FLAG_CLASSES[challenge.GENERATED] = challenge.GeneratedFlag
    register_plugin_assets_directory(app, base_path=f"/plugins/{PLUGIN}/assets/")
    register_user_page_menu_bar("My instances", routes.PAGE)
    register_admin_plugin_menu_bar("Instances", admin.PAGE)

    class Menus(type(Plugins)):
        @property
        def user_menu_pages(self):
            """CTFd's menu; that of helpers has the operations page."""
            helps = [Menu("Operations", url_for(f"{admin.blueprint.name}.page"), None)] if access.helps() else []
            return [*super().user_menu_pages, *helps]

    app.jinja_env.globals.update(Plugins=Menus(), stackd_defaults=challenge.DEFAULTS)
    worker = app.stackd_worker = Worker(app)
    app.before_request(worker.ensure_running)
    app.after_request(admin.after_reset)
    app.register_blueprint(routes.blueprint)
    app.register_blueprint(health.blueprint)  # with the routes of ``admin``
