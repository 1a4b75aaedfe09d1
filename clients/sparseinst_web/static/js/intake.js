// The ways in which pictures come: dropped, pasted, chosen.

/**
 * Hand every picture that is dropped on the page, pasted into it or chosen on to `take`, as a list of files.
 *
 * @param {HTMLInputElement[]} inputs file inputs.
 * @param {(files: File[]) => void} take
 */
export function listen(inputs, take) {
  for (const input of inputs) {
    input.addEventListener("change", () => {
      if (input.files.length) take([...input.files]);
      input.value = ""; // so that the same file can be chosen again
    });
  }
  window.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) take([...event.clipboardData.files]);
  });
  window.addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  window.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) document.body.classList.remove("dropping");
  });
  window.addEventListener("drop", (event) => {
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    document.body.classList.remove("dropping");
    take([...event.dataTransfer.files]);
  });
}
