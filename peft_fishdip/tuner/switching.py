"""Which adapters of a model are active, and whose turn it is where threads share the model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from peft.tuners.tuners_utils import BaseTuner

from ..adapter.combine import refuse_unknown
from ..layers.layer import layers_of
from .arguments import check_names
from .calls import calls_of
from .copies import adapters_of


class Switching(BaseTuner):
    """A tuner whose adapters can be switched without looking at all adapters in each layer."""

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """Activate adapters, whose deltas add up; see BaseTuner.

        Raises:
            ValueError: there is no such adapter.
            RuntimeError: another thread is calling the model, see `using_adapter`.
        """
        check_names(adapter_name)
        refuse_unknown(adapter_name, self.peft_config)
        names = [adapter_name] if isinstance(adapter_name, str) else list(adapter_name)
        with calls_of(self.model).switching(names):
            if any(getattr(config, "modules_to_save", None) for config in self.peft_config.values()):
                super().set_adapter(adapter_name, inference_mode)  # which looks for these among all modules
                return
            for layer in layers_of(self.model):
                if layer.merged:
                    text = "Adapter cannot be set when the model is merged. Unmerging the model first."  # PEFT's
                    warnings.warn(text, UserWarning, stacklevel=2)
                    layer.unmerge()
                layer.activate(names)
            # once for each adapter, and not in each layer: 0.85 ms among 10 adapters, 0.89 among 100
            for state in adapters_of(self.model):
                state.flat.requires_grad_(state.adapter_name in names and not inference_mode)
            self.active_adapter = adapter_name

    @contextmanager
    def using_adapter(self, adapter_name: str | list[str]) -> Iterator[None]:
        """Within, these adapters are active, frozen, and other threads that use this method wait.

        For servers whose threads share a model and need different adapters:

        ```python
        with model.base_model.using_adapter("french"):
            output = model.generate(**inputs)
        ```

        The adapters stay active afterwards, until the next one is needed.

        Raises:
            ValueError: there is no such adapter.
            RuntimeError: another thread is calling the model outside of this method.
        """
        names = [adapter_name] if isinstance(adapter_name, str) else list(adapter_name)
        calls = calls_of(self.model)
        with calls.turn:
            refuse_unknown(names, self.peft_config)
            if self.active_adapters == names:
                calls.choose(names)
                self.set_requires_grad(names, requires_grad=False)
            else:
                self.set_adapter(adapter_name, inference_mode=True)
            yield
