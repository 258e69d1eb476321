#!/bin/sh
# Makes what compose.yaml needs beside it, once: an authority, certificates and passwords. For a trial on one host;
# elsewhere take the certificates of your own authority, and keep its key away from the instances.
set -eu
cd "$(dirname "$0")"
[ ! -e tls ] || { echo "tls/ is there already: nothing was done" >&2; exit 1; }
umask 077
mkdir -p tls secrets
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 \
  -keyout tls/ca.key -out tls/ca.pem -subj /CN=synchro-ca 2>/dev/null
for name in instance001 instance002 instance003 client; do
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
    -keyout "tls/$name.key" -out "tls/$name.csr" -subj "/CN=$name" 2>/dev/null
  names="DNS:$name"
  [ "$name" = client ] || names="$names,DNS:localhost,IP:127.0.0.1"
  printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth\n' "$names" > "tls/$name.ext"
  openssl x509 -req -in "tls/$name.csr" -CA tls/ca.pem -CAkey tls/ca.key -CAcreateserial -days 365 \
    -extfile "tls/$name.ext" -out "tls/$name.pem" 2>/dev/null
  rm "tls/$name.csr" "tls/$name.ext"
done
for user in admin replicator; do
  openssl rand -hex 24 > "secrets/$user.password"
done
# The containers run as user 10001.
chown -R 10001 tls secrets 2>/dev/null || chmod -R a+rX tls secrets
mv tls/ca.key ca.key
echo "made tls/, secrets/ and ca.key; keep ca.key elsewhere"
