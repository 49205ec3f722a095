#!/usr/bin/env bash
# Builds the manual as a site that needs no network: site/index.html. MkDocs Material and latex2mathml are those of .venv
# (tools/setup.sh --tests), else of build/site-venv, where this script installs them once.
#   tools/docs.sh
# ESPALIER_MKDOCS=PROGRAM takes an installed mkdocs instead.
set -euo pipefail
# shellcheck source=tools/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$ESPALIER_ROOT"
mkdir -p build

environment=.venv
has_packages() { "$environment/bin/python" -c 'import material, latex2mathml' 2>/dev/null; }
if [[ -z ${ESPALIER_MKDOCS:-} ]] && ! has_packages; then
  environment=build/site-venv
  if ! has_packages; then
    python3 -m venv "$environment"
    "$environment/bin/pip" install --quiet "${SITE_PACKAGES[@]}"
  fi
fi
mkdocs=("$environment/bin/python" -m mkdocs)  # not bin/mkdocs, which names the folder it was installed in
[[ -z ${ESPALIER_MKDOCS:-} ]] || mkdocs=("$ESPALIER_MKDOCS")

# MkDocs wants every page in one folder, and the pages of the top level are beside docs/.
pages=build/site-pages
rm -rf "$pages"
mkdir -p "$pages"
cp -r docs/. "$pages"
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

# Without a font that has a table of measures for formulas, browsers set subscripts on the line.
font=/usr/share/fonts/opentype/stix-word/STIXMath-Regular.otf
[[ -f $font ]] || (install_packages "${SITE_SYSTEM_PACKAGES[@]}") || true
if [[ -f $font ]]; then
  cp "$font" "$pages"
else
  printf 'note: without the package %s, formulas look right only for readers who have a font for them\n' "${SITE_SYSTEM_PACKAGES[*]}"
fi
cat >"$pages/site.css" <<'CSS'
@font-face { font-family: "Site Math"; src: url("STIXMath-Regular.otf"); }
math { font-family: "Site Math", math; }
math[display=block] { overflow-x: auto; overflow-y: hidden; padding: 0.3em 0; }
CSS

NO_MKDOCS_2_WARNING=1 "${mkdocs[@]}" build --strict --quiet
printf 'site/index.html\n'
