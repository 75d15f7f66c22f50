"""``python -m napari_wsi_xai`` is the command ``napari-wsi-xai``."""

from napari_wsi_xai.cli import main

if __name__ == "__main__":
    main()
