#!/usr/bin/env bash
# Builds the manual as a site: site/index.html. MkDocs Material and latex2mathml are installed into
# build/site-venv, once.
#   tools/docs.sh
# ESPALIER_MKDOCS=PROGRAM takes an installed mkdocs instead.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

mkdocs=${ESPALIER_MKDOCS:-build/site-venv/bin/mkdocs}
if [[ -z ${ESPALIER_MKDOCS:-} ]] && ! build/site-venv/bin/python -c 'import material, latex2mathml' 2>/dev/null; then
  python3 -m venv build/site-venv
  build/site-venv/bin/pip install --quiet mkdocs-material latex2mathml
fi

# MkDocs wants every page in one folder, and the pages of the top level are beside docs/.
pages=build/site-pages
rm -rf "$pages"
mkdir -p "$pages"
cp -r docs/. "$pages"
printf 'math[display=block] { overflow-x: auto; overflow-y: hidden; padding: 0.3em 0; }\n' >"$pages/site.css"
top=(README ARCHITECTURE CONTRIBUTING CHANGELOG)
for name in "${top[@]}"; do
  lower=${name,,}
  [[ $name == README ]] && lower=about
  sed 's|](docs/|](|g; s|](docs)|](index.md)|g' "$name.md" >"$pages/$lower.md"
  find "$pages" -name '*.md' -exec sed -i "s|](\(\(\.\./\)*\)$name\.md|](\1$lower.md|g" {} +
done
# One folder up from docs/ is now docs/ itself.
find "$pages" -maxdepth 1 -name '*.md' -exec sed -i 's|](\.\./|](|g' {} +
find "$pages" -mindepth 2 -name '*.md' -exec sed -i 's|](\.\./\.\./|](../|g' {} +
sed -i 's|](methods)|](index.md#methods)|g' "$pages/about.md"

"$mkdocs" build --strict --quiet
printf 'site/index.html\n'
