// A canvas of NiiVue. The source comes once a page, from one model; each canvas evaluates it anew, because ipyniivue keeps
// one NiiVue a module.
async function instance(model) {
  const source = await model.widget_manager.get_model(model.get("source"));
  const url = URL.createObjectURL(new Blob([source.get("text")], { type: "text/javascript" }));
  try {
    return (await import(url)).default;
  } finally {
    URL.revokeObjectURL(url);
  }
}

// The kernel has the voxels already; ipyniivue would send them back to it, uncompressed.
async function keepVoxels(model) {
  for (const reference of model.get("volumes")) {
    const volume = await model.widget_manager.get_model(reference.slice("IPY_MODEL_".length));
    volume.send_sync_message = () => "";
  }
}

function hasWebGL2() {
  const context = document.createElement("canvas").getContext("webgl2");
  context?.getExtension("WEBGL_lose_context")?.loseContext(); // browsers allow few at a time
  return context !== null;
}

export default () => {
  let model = null;
  let started = null;
  return {
    initialize(context) {
      model = context.model;
      if (!hasWebGL2()) {
        model.set("webgl2", false);
        model.save_changes();
      }
    },
    async render({ el, ...context }) {
      if (!model.get("webgl2")) return;
      el.setAttribute("role", "img");
      el.setAttribute("aria-label", model.get("label"));
      // Not in initialize: anywidget gives up on a model that takes longer than two seconds, and the source's may not
      // be there yet.
      started ??= instance(model).then(async (niivue) => {
        await keepVoxels(model);
        await niivue.initialize({ model });
        return niivue;
      });
      return (await started).render({ el, ...context });
    },
  };
};
