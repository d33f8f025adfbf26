#!/usr/bin/env bash
# provision.sh HOST KEY.pub: make a bare Debian host ready for deploys; again at will, a second run changes nothing.
#   make provision HOST=root@198.51.100.7 KEY=deploy.pub ENV=prod
# HOST is whom ssh knows, root or a user with sudo that asks no password; `local` is this very machine, as root.
# Read on the host: engine and Compose of Debian, a user for deploys who gets no shell, the project's folder, the door for
# the deploy key, firewall, unattended upgrades, settings of the kernel. Ends with what GitHub has to know.
set -euo pipefail

host=${1-} key=${2-} environment=${ENV:-prod}
if [ "$host" != --here ]; then # on the desk: the same script and the door go to the host
  cd "$(dirname "${BASH_SOURCE[0]}")/../.."
  say() { echo "provision: $*" >&2; }
  [ -n "$host" ] && [ -n "$key" ] || { say "usage: make provision HOST=root@address KEY=deploy.pub ENV=stage|prod; a key: ssh-keygen -t ed25519 -N '' -f deploy"; exit 2; }
  case $environment in stage | prod) ;; *) say "ENV is stage or prod"; exit 2 ;; esac
  [ -r "$key" ] || { say "no such file: $key"; exit 1; }
  if grep -q PRIVATE "$key" || ! ssh-keygen -l -f "$key" >/dev/null; then say "$key is not a public key" && exit 1; fi
  name=$(sed -n 's/^name: //p' compose.yaml)
  words=(--here "$name" "$environment" "$(cut -d' ' -f1,2 "$key")")
  case $host in
  local) exec bash ops/scripts/provision.sh "${words[@]}" <ops/scripts/door.sh ;;
  *)
    # The script as an argument and the door on standard input: one connection, nothing left behind.
    # shellcheck disable=SC2029 # expanded here on purpose
    exec ssh -o StrictHostKeyChecking=ask "$host" "$([ "${host%%@*}" = root ] || echo sudo) bash -c $(printf %q "$(cat ops/scripts/provision.sh)") provision $(printf '%q ' "${words[@]}")" <ops/scripts/door.sh
    ;;
  esac
fi

# From here on the host, as root. Standard input is door.sh.
name=$2 environment=$3 public_key=$4
folder=/srv/$name user=deploy
changed=0
say() { echo "provision: $*"; }
put() { # FILE MODE: standard input, if it differs; says so
  local fresh
  fresh=$(mktemp)
  cat >"$fresh"
  if cmp -s "$fresh" "$1" && [ "$(stat -c %a "$1")" = "$2" ]; then
    rm "$fresh"
    return 1
  fi
  mkdir -p "$(dirname "$1")"
  install -m "$2" "$fresh" "$1"
  rm "$fresh"
  say "wrote $1"
  changed=1
}
service() { # a container that rehearses this has no systemd
  if [ -d /run/systemd/system ]; then systemctl "$@"; else say "no systemd here; not done: systemctl $*"; fi
}

[ "$(id -u)" = 0 ] || { say "root is needed"; exit 1; }
# shellcheck disable=SC1091
. /etc/os-release
if [ "$ID" != debian ] || [ "${VERSION_ID:-99}" -lt 13 ]; then
  say "this knows Debian 13 and newer, not $PRETTY_NAME; what it does by hand: docs/deploy.md"
  exit 1
fi

wanted=(ca-certificates curl docker.io docker-cli docker-compose make nftables openssh-server unattended-upgrades systemd-timesyncd)
missing=()
for package in "${wanted[@]}"; do
  dpkg-query --show --showformat '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  say "installing ${missing[*]}"
  apt-get update -q=2
  DEBIAN_FRONTEND=noninteractive apt-get install -q=2 --no-install-recommends "${missing[@]}" >/dev/null
  changed=1
fi

# The deploy user: no password, no shell but the one that sshd needs for the forced command, and the engine, which is as
# good as root. The key is held to the door by files that belong to root.
if ! id "$user" >/dev/null 2>&1; then
  useradd --create-home --shell /bin/sh "$user"
  say "made the user $user"
  changed=1
fi
if ! id -nG "$user" | grep -qw docker; then usermod --append --groups docker "$user" && changed=1; fi
if [ ! -d "$folder" ]; then
  install -d -m 750 -o "$user" -g "$user" "$folder"
  say "made $folder"
  changed=1
fi
put "/usr/local/sbin/$name-door" 755 || true
put "/etc/ssh/deploy/$user" 644 <<<"restrict,command=\"/usr/local/sbin/$name-door $environment $folder\" $public_key" || true
put /etc/ssh/sshd_config.d/20-deploy.conf 644 <<TEXT || true
# Keys only. The key for deploys is root's to change, not the deploy user's.
PasswordAuthentication no
KbdInteractiveAuthentication no
Match User $user
    AuthorizedKeysFile /etc/ssh/deploy/%u
    AllowTcpForwarding no
    X11Forwarding no
    PermitTTY no
TEXT
mkdir -p /run/sshd
sshd -t
service reload ssh

# Nothing comes in but SSH and what nginx publishes. Docker adds tables of its own, which this one leaves alone.
ssh_port=$(sshd -T 2>/dev/null | sed -n 's/^port //p' | head -n 1)
put /etc/nftables.conf 644 <<TEXT || true
#!/usr/sbin/nft -f
table inet host
delete table inet host
table inet host {
    chain input {
        type filter hook input priority filter; policy drop;
        ct state established,related accept
        ct state invalid drop
        iif lo accept
        meta l4proto { icmp, ipv6-icmp } accept
        tcp dport { ${ssh_port:-22}, 80, 443 } accept
    }
}
TEXT
nft --check --file /etc/nftables.conf
service enable --now nftables
service reload nftables

if [ ! -e /etc/docker/daemon.json ]; then
  # Containers outlive a restart of the engine, which upgrades bring; no log grows without end.
  put /etc/docker/daemon.json 644 <<'TEXT' || true
{
  "live-restore": true,
  "log-driver": "json-file",
  "log-opts": { "max-size": "10m", "max-file": "5" },
  "no-new-privileges": true
}
TEXT
  service restart docker
fi
service enable --now docker

put /etc/apt/apt.conf.d/20auto-upgrades 644 <<'TEXT' || true
APT::Periodic::Update-Package-Lists "1";
APT::Periodic::Unattended-Upgrade "1";
TEXT
put /etc/sysctl.d/60-service.conf 644 <<'TEXT' || true
# Redis forks to write its file: without this the kernel refuses when half of the memory is in use.
vm.overcommit_memory = 1
# nginx's queue of connections that nobody has taken yet.
net.core.somaxconn = 4096
TEXT
sysctl --quiet --load /etc/sysctl.d/60-service.conf || say "the kernel's settings come with the next start"

[ "$changed" = 1 ] || say "everything was there already"
ssh-keygen -A >/dev/null
cat <<TEXT
provision: ready. Next (docs/deploy.md):
  .env               copy it to $folder/.env: owner $user, mode 600
  certificate        ACME_EMAIL in that .env, or your own: TLS_DIR=./ops/nginx/certs
  DEPLOY_TARGET      $user@$(hostname -f 2>/dev/null || hostname)
  DEPLOY_KNOWN_HOSTS $(hostname -f 2>/dev/null || hostname) $(cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub)
TEXT
