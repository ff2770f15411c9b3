// Builds the dashboard into src/partita/dash/bundle; with --check, fails where that is not what the sources make.
import { build } from "esbuild";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const LARGEST = 80_000; // bytes, gzipped: also on a slow line the page is there within a second
const target = new URL("../src/partita/dash/bundle/", import.meta.url);
const check = process.argv.includes("--check");

const { outputFiles } = await build({
  entryPoints: { app: "src/main.tsx" },
  outdir: "out",
  bundle: true,
  minify: true,
  format: "iife",
  target: ["es2022", "chrome123", "firefox121", "safari17.5"],
  charset: "utf8",
  legalComments: "none",
  logLevel: "warning",
  write: false,
});
const files = new Map(outputFiles.map((file) => [file.path.split("/").at(-1), file.text]));
for (const name of ["index.html", "icon.svg"]) files.set(name, readFileSync(name, "utf8"));

let size = 0;
for (const [name, text] of [...files].sort()) {
  const at = new URL(name, target);
  size += gzipSync(text, { level: 9 }).length;
  if (!check) {
    mkdirSync(target, { recursive: true });
    writeFileSync(at, text);
  } else if (!existsSync(at) || readFileSync(at, "utf8") !== text) {
    console.error(`${name} in src/partita/dash/bundle is not what web/ makes; run make web and commit it`);
    process.exit(1);
  }
}
console.log(`${files.size} files, ${(size / 1000).toFixed(1)} kB gzipped of at most ${LARGEST / 1000} kB`);
if (size > LARGEST) process.exit(1);
