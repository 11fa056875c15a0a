// The Python module tcm_d2._C has no members: importing it loads the library,
// whose static initialisers register the kernels with torch.ops.tcm_d2.

#include <Python.h>

extern "C" PyObject* PyInit__C(void) {
  static PyModuleDef module = {
      PyModuleDef_HEAD_INIT,
      "_C",
      "Compiled kernels of torch.ops.tcm_d2; import registers them.",
      -1,
      nullptr,
      nullptr,
      nullptr,
      nullptr,
      nullptr,
  };
  return PyModule_Create(&module);
}
