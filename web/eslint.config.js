import tseslint from "typescript-eslint";

export default tseslint.config(
  { ignores: ["node_modules", "*.mjs", "*.js", "src/model.ts"] },
  ...tseslint.configs.strictTypeChecked,
  {
    languageOptions: { parserOptions: { projectService: true } },
    rules: {
      eqeqeq: "error",
      "no-console": "error",
      "no-restricted-imports": [
        "error",
        {
          name: "preact/hooks",
          importNames: ["useEffect"],
          message: "It runs a frame later, when a key may have been pressed or an event told: take useLayoutEffect.",
        },
      ],
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true }],
      "@typescript-eslint/no-confusing-void-expression": ["error", { ignoreArrowShorthand: true }],
      // The caller says what a path of the API returns.
      "@typescript-eslint/no-unnecessary-type-parameters": "off",
      // Indices into columns are checked where they are read; elsewhere the compiler asks.
      "@typescript-eslint/no-non-null-assertion": "off",
    },
  },
);
