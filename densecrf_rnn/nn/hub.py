"""save_pretrained, from_pretrained and push_to_hub, by the mixin of huggingface_hub."""

import importlib
import json
from pathlib import Path
from typing import Any, ClassVar

from .. import checks
from .arguments import refuse_onnx
from .settings import KeepsSettings, arguments_of

CONFIG, WEIGHTS = "config.json", "model.safetensors"


class _Absent:
    """What stands for the mixin where huggingface_hub is not installed: an error that says so."""

    def save_pretrained(self, *args: Any, **options: Any) -> Any:
        """Raise ImportError: huggingface_hub is not installed."""
        _hub("save_pretrained")

    def push_to_hub(self, *args: Any, **options: Any) -> Any:
        """Raise ImportError: huggingface_hub is not installed."""
        _hub("push_to_hub")

    @classmethod
    def from_pretrained(cls, *args: Any, **options: Any) -> Any:
        """Raise ImportError: huggingface_hub is not installed."""
        _hub("from_pretrained")


def _hub(user: str) -> Any:
    return checks.package("huggingface_hub", user, "'densecrf-rnn[hub]'")


def _mixin() -> Any:
    try:
        return importlib.import_module("huggingface_hub").ModelHubMixin
    except (ImportError, AttributeError):
        return _Absent


class Pretrained(KeepsSettings, _mixin()):  # type: ignore[misc]
    """A module that is saved as config.json (its settings) and model.safetensors (its state).

    ``save_pretrained(folder)``, ``from_pretrained(folder or name, **arguments)`` and
    ``push_to_hub(name)`` are those of `huggingface_hub.ModelHubMixin`. Arguments of
    `from_pretrained` replace settings, and are needed where settings cannot hold them, such as a
    backbone. Weights are loaded strictly, and the module is in eval() mode.
    """

    kinds: ClassVar[dict[str, type["Pretrained"]]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        Pretrained.kinds[cls.__name__] = cls

    def _slow_forward(self, *args: Any, **options: Any) -> Any:
        """Refuse the older exporter of torch.onnx; torch calls this in place of `forward`.

        It passes keyword arguments by position, so that `forward` itself would never be reached.
        """
        refuse_onnx()
        return super()._slow_forward(*args, **options)  # type: ignore[no-untyped-call]

    def _config(self) -> dict[str, Any]:
        """Return what config.json holds."""
        return self.settings()

    @classmethod
    def _arguments(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Return the constructor's arguments for what config.json holds."""
        return arguments_of(config)

    def _save_pretrained(self, save_directory: Path) -> None:
        save = checks.package("safetensors.torch", "save_pretrained", "'densecrf-rnn[hub]'")
        text = json.dumps(self._config(), indent=2)
        (save_directory / CONFIG).write_text(text + "\n", encoding="utf-8")
        save.save_model(self, str(save_directory / WEIGHTS))

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, map_location: str = "cpu", **options: Any
    ) -> Any:
        load = checks.package("safetensors.torch", "from_pretrained", "'densecrf-rnn[hub]'")
        names = ("revision", "cache_dir", "force_download", "local_files_only", "token")
        of_hub = {name: options.pop(name) for name in names if name in options}
        options = cls._arguments(options)
        module = cls(**options)
        file = Path(model_id) / WEIGHTS
        if not Path(model_id).is_dir():
            file = _hub("from_pretrained").hf_hub_download(model_id, WEIGHTS, **of_hub)
        module.load_state_dict(load.load_file(str(file)))
        return module.to(map_location).eval()
