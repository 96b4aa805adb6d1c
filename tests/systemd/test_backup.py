"""The timer's backups: they are made while the daemon runs, replaced, for nobody else to read, and can be restored."""

from __future__ import annotations

from tests.systemd.service import UNIT, Service

BACKUP = "stackd-backup.service"
FOLDER = "/var/lib/stackd/backups"


async def test_the_timers_backup_is_made_and_replaced_and_brings_the_stacks_back(service: Service) -> None:
    assert service.machine.run("systemctl", "is-enabled", "stackd-backup.timer").out.strip() == "disabled"
    await service.do("systemctl", "start", BACKUP)
    stack = await service.create()
    await service.do("systemctl", "start", BACKUP)  # a second one in this hour replaces the first
    listed = (await service.do("bash", "-c", f"stat -c '%U %a %n' {FOLDER} {FOLDER}/*")).splitlines()
    assert listed[0] == f"stackd 700 {FOLDER}"
    assert all(line.startswith(f"stackd 600 {FOLDER}/") for line in listed[1:])
    await service.do("systemctl", "stop", UNIT)
    # as docs/operate.md says
    await service.do(
        "bash",
        "-ec",
        f"rm -f /var/lib/stackd/stackd.db-wal /var/lib/stackd/stackd.db-shm; latest=$(ls -t {FOLDER}/*.db | head -n 1); "
        'install -o stackd -g stackd -m 600 "$latest" /var/lib/stackd/stackd.db',
    )
    await service.start()
    assert [one["stack_id"] for one in await service.stacks()] == [stack["stack_id"]]
    await service.do("systemctl", "start", BACKUP)


async def test_a_backup_that_fails_says_why(service: Service) -> None:
    await service.do("systemctl", "stop", UNIT)
    await service.do("rm", "/var/lib/stackd/stackd.db")
    assert await service.try_to("systemctl", "start", BACKUP) != 0
    said = [record["MESSAGE"] for record in service.machine.journal(f"--unit={BACKUP}")]
    assert any("there is no state file stackd.db" in line for line in said), said
