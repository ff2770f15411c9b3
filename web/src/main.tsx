import { render } from "preact";
import { define } from "./colours";
import { Shell } from "./shell";
import { connect } from "./state";
import "./style.css";
import "./report.css";

define();
void connect();
render(<Shell />, document.getElementById("app")!);
