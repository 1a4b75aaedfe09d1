#!/usr/bin/env bash
# Make certificates to try TLS with: an authority, a server's, and a client's for mutual TLS. For tests and first steps;
# in production let your own authority (cert-manager, say) issue them, and rotate them.
#
#   deploy/tls/make_certificates.sh DIR [NAME...]
#
# DIR must not exist. NAMEs are host names and IP addresses that clients reach the server by (localhost 127.0.0.1).
# Written: ca.crt, server.crt, server.key, client.crt, client.key. Keys are readable by their owner alone, have no pass
# phrase and are P-256; all certificates end after DAYS (90). The authority's own key is thrown away: nobody can issue
# more, and a second run makes another authority.
set -euo pipefail

fail() {
  echo "make_certificates: $*" >&2
  exit 1
}

[[ $# -ge 1 && $1 != -* ]] || fail "wanted a folder to write, then names of the server: make_certificates.sh build/tls triton.example.org"
out=$1
shift
days=${DAYS:-90}
names=("$@")
((${#names[@]})) || names=(localhost 127.0.0.1)
[[ ! -e $out ]] || fail "$out is there already; name another folder, or remove it"
command -v openssl >/dev/null || fail "no openssl here; Debian, Ubuntu: apt-get install openssl"
[[ $days =~ ^[1-9][0-9]{0,3}$ ]] || fail "DAYS is '$days'; wanted 1 to 9999"

subjects=()
for name in "${names[@]}"; do
  if [[ $name =~ ^[0-9.]+$ || $name == *:* ]]; then
    subjects+=("IP:$name")
  elif [[ $name =~ ^[A-Za-z0-9*]([A-Za-z0-9.-]*)$ ]]; then
    subjects+=("DNS:$name")
  else
    fail "'$name' is neither a host name nor an IP address"
  fi
done

umask 077
mkdir -p "$(dirname "$out")"
work=$(mktemp -d "$out.XXXXXX") # beside the folder, which then appears whole or not at all
trap 'rm -rf "$work"' EXIT

new_key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null; }

issue() { # name, common name, extended key usage, subject alternative names
  new_key "$work/$1.key"
  openssl req -new -key "$work/$1.key" -subj "/CN=$2" -out "$work/$1.csr"
  printf '%s\n' basicConstraints=critical,CA:FALSE keyUsage=critical,digitalSignature "extendedKeyUsage=$3" "subjectAltName=$4" >"$work/$1.ext"
  openssl x509 -req -in "$work/$1.csr" -CA "$work/ca.crt" -CAkey "$work/ca.key" -set_serial "0x$(openssl rand -hex 16)" \
    -days "$days" -extfile "$work/$1.ext" -out "$work/$1.crt" 2>/dev/null
  rm "$work/$1.csr" "$work/$1.ext"
}

new_key "$work/ca.key"
openssl req -x509 -new -key "$work/ca.key" -subj "/CN=sparseinst example authority" -days "$days" \
  -addext basicConstraints=critical,CA:TRUE,pathlen:0 -addext keyUsage=critical,keyCertSign,cRLSign -out "$work/ca.crt"
issue server "${names[0]}" serverAuth "$(IFS=,; echo "${subjects[*]}")"
issue client "sparseinst example client" clientAuth DNS:client
rm "$work/ca.key"
chmod 644 "$work"/*.crt
chmod 755 "$work"
mv -T "$work" "$out"
echo "$out: $(cd "$out" && echo *), for ${names[*]}, $days days"
