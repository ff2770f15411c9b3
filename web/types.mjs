// Writes src/model.ts: the documents of the API and of reports as TypeScript types, from their schemas; with --check,
// fails where that is not what stands there.
import { readFileSync, writeFileSync } from "node:fs";

const specification = JSON.parse(readFileSync("../docs/openapi.json", "utf8"));
const { $defs: inside, ...report } = JSON.parse(readFileSync("../docs/report.schema.json", "utf8"));
const schemas = { ...inside, Report: report, ...specification.components.schemas };

const named = (reference) => reference.split("/").at(-1);

/** Names of all schemas that a part of the document refers to, also through others. */
function reached(part, found = new Set()) {
  for (const [key, value] of Object.entries(part ?? {})) {
    if (key === "$ref") {
      const name = named(value);
      if (!found.has(name)) reached(schemas[found.add(name) && name], found);
    } else if (typeof value === "object") reached(value, found);
  }
  return found;
}

const requests = Object.values(specification.paths ?? {}).flatMap((path) =>
  Object.values(path).map((operation) => operation.requestBody),
);
/** What clients send may leave out what has a default; what they receive is complete. */
const sent = reached(requests);

const grouped = (text) => (text.includes("|") ? `(${text})` : text);

function type(schema) {
  if (schema.$ref) return named(schema.$ref);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices) return choices.map(type).join(" | ");
  switch (Array.isArray(schema.type) ? "several" : schema.type) {
    case "several":
      return schema.type.map((one) => type({ ...schema, type: one })).join(" | ");
    case "array":
      if (schema.prefixItems) return `[${schema.prefixItems.map(type).join(", ")}]`;
      return `readonly ${grouped(type(schema.items))}[]`;
    case "object":
      return `Readonly<Record<string, ${type(schema.additionalProperties || {})}>>`;
    case "integer":
    case "number":
      return "number";
    case "string":
    case "boolean":
    case "null":
      return schema.type;
    default:
      return "unknown";
  }
}

const comment = (text, indent) => (text ? `${indent}/** ${text.replace(/\s+/g, " ").replace("*/", "* /")} */\n` : "");

function declared(name, schema) {
  const head = comment(schema.description?.split("\n\n")[0], "");
  if (!schema.properties) return `${head}export type ${name} = ${type(schema)};\n`;
  const must = new Set(schema.required);
  const fields = Object.entries(schema.properties).map(([field, of]) => {
    const optional = sent.has(name) && !must.has(field) ? "?" : "";
    return `${comment(of.description, "  ")}  readonly ${field}${optional}: ${type(of)};\n`;
  });
  return `${head}export interface ${name} {\n${fields.join("")}}\n`;
}

const parts = Object.keys(schemas)
  .sort()
  .map((name) => declared(name, schemas[name]));
const origin = "// Written by `make web` from docs/openapi.json and docs/report.schema.json.\n\n";
const text = origin + parts.join("\n");
if (!process.argv.includes("--check")) writeFileSync("src/model.ts", text);
else if (readFileSync("src/model.ts", "utf8") !== text) {
  console.error("web/src/model.ts is not what docs/openapi.json says; run make web and commit it");
  process.exit(1);
}
